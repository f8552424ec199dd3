"""Kafka's messages, encoded and decoded from the schemas that Kafka's own kafka-clients jar carries.

A message is a dict from schema field names to values. Missing fields take the schema's default. Decoding is strict: a
response with a byte too few or too many, or a null where the version allows none, raises. So every response a test looks
at is checked against Kafka's definition, whatever the test itself asks.
"""

import glob
import json
import os
import re
import struct
import uuid
import zipfile

NUMBERS = {"bool": "?", "int8": "b", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "float64": "d"}
COMMENTS = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*')


class DecodeError(Exception):
    """The bytes are not such a message."""


class Message(dict):
    """A decoded struct: fields as attributes too."""

    __getattr__ = dict.__getitem__


class Versions:
    """A range such as `2-5`, `3+`, `7` or `none`."""

    def __init__(self, text):
        if text is None or text == "none":
            self.low, self.high = 0, -1
        elif text.endswith("+"):
            self.low, self.high = int(text[:-1]), 32767
        else:
            low, _, high = text.partition("-")
            self.low, self.high = int(low), int(high or low)

    def __contains__(self, version):
        return self.low <= version <= self.high


class Field:
    """One field of a struct, its version ranges parsed."""

    def __init__(self, spec, structs):
        self.name = spec["name"]
        self.type = spec["type"]
        self.versions = Versions(spec.get("versions"))
        self.nullable = Versions(spec.get("nullableVersions"))
        self.tagged = Versions(spec.get("taggedVersions"))
        self.flexible = Versions(spec["flexibleVersions"]) if "flexibleVersions" in spec else None
        self.tag = spec.get("tag")
        self.element = self.type[2:] if self.type.startswith("[]") else None
        inner = self.element or self.type
        self.struct = structs.get(inner)
        if "fields" in spec:
            self.struct = [Field(f, structs) for f in spec["fields"]]
        self.default = self._default(spec.get("default"))

    def _default(self, text):
        if text == "null":
            return None
        if self.element:
            return []
        if self.type == "bool":
            return str(text).lower() == "true"
        if self.type == "float64":
            return float(text or 0)
        if self.type in NUMBERS:
            return int(str(text or 0), 0)
        if self.type == "string":
            return text or ""
        if self.type == "uuid":
            return uuid.UUID(int=0)
        if self.type in ("bytes", "records"):
            return b""
        return {}


class Schema:
    """The definition of one request or response."""

    def __init__(self, text):
        spec = json.loads(COMMENTS.sub(lambda m: m.group(1) or "", text))
        self.name, self.key = spec["name"], spec.get("apiKey")
        self.kind = spec["type"]
        self.versions, self.flexible = Versions(spec["validVersions"]), Versions(spec.get("flexibleVersions"))
        structs = {}
        for common in spec.get("commonStructs", []):
            structs[common["name"]] = []
        for common in spec.get("commonStructs", []):
            structs[common["name"]].extend(Field(f, structs) for f in common["fields"])
        self.fields = [Field(f, structs) for f in spec.get("fields", [])]

    def encode(self, version, message, writer=None):
        """The bytes of `message` in `version`."""
        writer = writer or Writer()
        write_struct(writer, self.fields, version, version in self.flexible, message, self.name)
        return bytes(writer.out)

    def decode(self, version, data):
        """The message that `data` holds, all of it."""
        reader = Reader(data)
        message = read_struct(reader, self.fields, version, version in self.flexible, self.name)
        if reader.at != len(data):
            raise DecodeError(f"{self.name} v{version}: {len(data) - reader.at} bytes after the end")
        return message


def varint(value):
    """Bytes of a number that is not negative, seven bits in each."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Writer:
    """Bytes of a message. `length` writes every length and count, so that an attacker can override it."""

    def __init__(self):
        self.out = bytearray()

    def number(self, kind, value):
        self.out += struct.pack(">" + NUMBERS[kind], value)

    def varint(self, value):
        self.out += varint(value & 0xFFFFFFFF)

    def length(self, value, compact, wide):
        """A length or count, -1 for null."""
        if compact:
            self.varint(value + 1)
        else:
            self.number("int32" if wide else "int16", value)

    def tag_length(self, value):
        """The count of tagged fields, or the size of one."""
        self.varint(value)

    def inner(self):
        """A writer for the value of a tagged field."""
        return Writer()


def write_struct(w, fields, version, flexible, message, where):
    unknown = set(message) - {f.name for f in fields}
    if unknown:
        raise KeyError(f"{where} has no field {unknown}")
    tagged = []
    for field in fields:
        if version not in field.versions:
            continue
        value = message.get(field.name, field.default)
        if version in field.tagged:
            if value != field.default:
                tagged.append((field, value))
        else:
            write_value(w, field, version, flexible, value, where)
    if flexible:
        w.tag_length(len(tagged))
        for field, value in sorted(tagged, key=lambda t: t[0].tag):
            inner = w.inner()
            write_value(inner, field, version, flexible, value, where)
            w.varint(field.tag)
            w.tag_length(len(inner.out))
            w.out += inner.out


def write_value(w, field, version, flexible, value, where):
    compact = flexible if field.flexible is None else version in field.flexible
    where = f"{where}.{field.name}"
    if field.element:
        if value is None:
            w.length(-1, compact, True)
            return
        w.length(len(value), compact, True)
        for item in value:
            write_scalar(w, field.element, field.struct, version, compact, item, where)
    elif field.struct is not None and version in field.nullable:
        w.number("int8", -1 if value is None else 1)
        if value is not None:
            write_struct(w, field.struct, version, flexible, value, where)
    else:
        write_scalar(w, field.type, field.struct, version, compact, value, where)


def write_scalar(w, kind, fields, version, compact, value, where):
    if kind in NUMBERS:
        w.number(kind, value)
    elif kind == "uuid":
        w.out += (value or uuid.UUID(int=0)).bytes
    elif kind in ("string", "bytes", "records"):
        data = value.encode() if isinstance(value, str) else value
        w.length(-1 if data is None else len(data), compact, kind != "string")
        w.out += data or b""
    else:
        write_struct(w, fields, version, compact, value, where)


class Reader:
    """Reads a message, refusing to pass its end."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count < 0 or self.at + count > len(self.data):
            raise DecodeError(f"{count} bytes wanted at {self.at} of {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind):
        code = ">" + NUMBERS[kind]
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def varint(self):
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise DecodeError("varint of more than 5 bytes")

    def length(self, compact, wide):
        return self.varint() - 1 if compact else self.number("int32" if wide else "int16")


def read_struct(r, fields, version, flexible, where):
    message = Message()
    for field in fields:
        if version in field.versions and version not in field.tagged:
            message[field.name] = read_value(r, field, version, flexible, where)
        else:
            message[field.name] = field.default
    if flexible:
        by_tag = {f.tag: f for f in fields if version in f.tagged}
        for _ in range(r.varint()):
            tag, data = r.varint(), r.take(r.varint())
            if tag in by_tag:
                inner = Reader(data)
                message[by_tag[tag].name] = read_value(inner, by_tag[tag], version, flexible, where)
                if inner.at != len(data):
                    raise DecodeError(f"{where}: tag {tag} is longer than its value")
    return message


def read_value(r, field, version, flexible, where):
    compact = flexible if field.flexible is None else version in field.flexible
    where = f"{where}.{field.name}"
    if field.element:
        count = r.length(compact, True)
        if count < 0:
            return none(field, version, where)
        return [read_scalar(r, field, field.element, version, compact, where) for _ in range(count)]
    if field.struct is not None and version in field.nullable and r.number("int8") < 0:
        return None
    return read_scalar(r, field, field.type, version, compact, where)


def read_scalar(r, field, kind, version, compact, where):
    if kind in NUMBERS:
        return r.number(kind)
    if kind == "uuid":
        return uuid.UUID(bytes=bytes(r.take(16)))
    if kind in ("string", "bytes", "records"):
        size = r.length(compact, kind != "string")
        if size < 0:
            return none(field, version, where)
        data = bytes(r.take(size))
        return data.decode() if kind == "string" else data
    return read_struct(r, field.struct, version, compact, where)


def none(field, version, where):
    if version not in field.nullable:
        raise DecodeError(f"{where} is null in version {version}")
    return None


class Protocol:
    """Every message of the jar, by API key and by name."""

    def __init__(self, libs):
        jars = sorted(glob.glob(os.path.join(libs, "kafka-clients-*.jar")))
        if not jars:
            raise SystemExit(f"no kafka-clients jar in KAFKA_LIBS={libs}")
        self.requests, self.responses, self.keys = {}, {}, {}
        with zipfile.ZipFile(jars[-1]) as jar:
            for name in jar.namelist():
                if re.fullmatch(r"common/message/\w+(Request|Response)\.json", name):
                    schema = Schema(jar.read(name).decode())
                    if schema.kind == "request":
                        self.requests[schema.key] = schema
                        self.keys[schema.name.removesuffix("Request")] = schema.key
                    else:
                        self.responses[schema.key] = schema

    def request_header(self, key, version, correlation, client_id="raw"):
        """Key, version, correlation id, client id (the old string form at every version), tagged fields if flexible."""
        w = Writer()
        w.number("int16", key)
        w.number("int16", version)
        w.number("int32", correlation)
        data = None if client_id is None else client_id.encode()
        w.length(-1 if data is None else len(data), False, False)
        w.out += data or b""
        schema = self.requests.get(key)
        if schema and version in schema.flexible:
            w.varint(0)
        return bytes(w.out)

    def response_header_size(self, key, version):
        """4 bytes of correlation id, and one of (no) tagged fields if flexible, which ApiVersions never has."""
        return 5 if key != 18 and version in self.requests[key].flexible else 4
