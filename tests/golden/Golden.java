// Golden bytes: messages, records and files as Apache Kafka's own classes write and read them.
//
//   java -cp 'LIBS/*' tests/golden/Golden.java write DIR   makes the files of DIR anew
//   java -cp 'LIBS/*' tests/golden/Golden.java read DIR    reads DIR/ours_*.txt, Corelane's bytes
//
// A line of a file is NAME KEY VALUE FIELDS: bytes in hexadecimal (- for none), fields as JSON. A
// line of ours_*.txt has no fields: Kafka must read from its bytes what it reads from the line with
// the same name.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.*;
import java.io.File;
import java.lang.reflect.Method;
import java.lang.reflect.ParameterizedType;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.message.*;
import org.apache.kafka.common.metadata.MetadataJsonConverters;
import org.apache.kafka.common.metadata.MetadataRecordType;
import org.apache.kafka.common.protocol.*;
import org.apache.kafka.common.protocol.types.*;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.coordinator.group.generated.ConsumerGroupCurrentMemberAssignmentValue;
import org.apache.kafka.coordinator.group.generated.ConsumerGroupMemberMetadataValue;
import org.apache.kafka.coordinator.group.generated.GroupMetadataValue;
import org.apache.kafka.common.utils.ByteBufferOutputStream;
import org.apache.kafka.metadata.MetadataRecordSerde;
import org.apache.kafka.metadata.properties.*;
import org.apache.kafka.server.common.ApiMessageAndVersion;
import org.apache.kafka.storage.internals.checkpoint.*;
import org.apache.kafka.storage.internals.log.*;
import org.apache.kafka.server.config.AbstractKafkaConfig;

public class Golden {
    static final JsonNodeFactory JSON = JsonNodeFactory.instance;
    static final String GENERATED = "org.apache.kafka.coordinator.%s.generated.%s";

    public static void main(String[] args) throws Exception {
        Path dir = Path.of(args[1]);
        Map<String, List<Case>> all = new LinkedHashMap<>();
        all.put("consumer_offsets", coordinator("group"));
        all.put("transaction_state", coordinator("transaction"));
        all.put("share_group_state", coordinator("share"));
        all.put("cluster_metadata", metadata());
        all.put("consumer_protocol", consumerProtocol());
        all.put("batches", batches());
        all.put("apis", apis());
        all.put("files", files());
        if (args[0].equals("read")) {
            System.exit(readOurs(dir, all));
        }
        for (Map.Entry<String, List<Case>> file : all.entrySet()) {
            StringBuilder text = new StringBuilder();
            file.getValue().forEach(each -> text.append(each.line()).append('\n'));
            Files.writeString(dir.resolve(file.getKey() + ".txt"), text);
        }
        Files.writeString(dir.resolve("settings.txt"), settings());
    }

    /** Every setting of brokers and topics: scope, name, type and range, between tabs. */
    static String settings() {
        StringBuilder text = new StringBuilder();
        Map.of("broker", AbstractKafkaConfig.CONFIG_DEF, "topic", LogConfig.configDefCopy())
            .entrySet().stream().sorted(Map.Entry.comparingByKey())
            .forEach(scope -> new TreeMap<>(scope.getValue().configKeys()).values().forEach(key -> {
                if (!key.internalConfig) {
                    Object range = Objects.requireNonNullElse(key.validator, "");
                    text.append(String.join("\t", scope.getKey(), key.name, key.type.name(), range.toString()).strip()).append('\n');
                }
            }));
        return text.toString();
    }

    record Case(String name, byte[] key, byte[] value, JsonNode fields, Reader reader) {
        String line() {
            return name + " " + hex(key) + " " + hex(value) + " " + fields;
        }
    }

    /** What Kafka reads from a key and a value, in a form in which the version does not show. */
    interface Reader {
        String read(byte[] key, byte[] value) throws Exception;
    }

    static String hex(byte[] bytes) {
        return bytes == null ? "-" : HexFormat.of().formatHex(bytes);
    }

    static byte[] bytes(String hex) {
        return hex.equals("-") ? null : HexFormat.of().parseHex(hex);
    }

    static byte[] bytes(ByteBuffer buffer) {
        return buffer == null ? null : MessageUtil.byteBufferToArray(buffer.duplicate());
    }

    // ---- our bytes ----

    static int readOurs(Path dir, Map<String, List<Case>> all) throws Exception {
        Map<String, Case> byName = new TreeMap<>();
        all.values().forEach(cases -> cases.forEach(each -> byName.put(each.name, each)));
        int wrong = 0;
        int right = 0;
        List<String> lines = new ArrayList<>();
        try (var files = Files.newDirectoryStream(dir, "ours_*.txt")) {
            for (Path file : files) {
                lines.addAll(Files.readAllLines(file));
            }
        }
        for (String line : lines) {
            String[] words = line.split(" ");
            Case expected = byName.get(words[0]);
            if (expected == null) {
                throw new IllegalStateException("no case is called " + words[0]);
            }
            String theirs = read(expected, expected.key, expected.value);
            String ours = read(expected, bytes(words[1]), bytes(words[2]));
            if (theirs.equals(ours)) {
                right++;
            } else {
                wrong++;
                System.out.println(words[0] + ": Kafka reads\n" + ours + "\ninstead of\n" + theirs);
            }
        }
        System.out.println(right + " read as they should be, " + wrong + " not");
        return wrong == 0 && right > 0 ? 0 : 1;
    }

    static String read(Case of, byte[] key, byte[] value) {
        try {
            return of.reader.read(key, value);
        } catch (Exception error) {
            return error.toString();
        }
    }

    // ---- messages with every field set ----

    enum Variant { DEFAULT, FULL, NULL, ODD }

    /** Gives each field of a version another value, in the order of the fields. */
    static class Filler {
        final Variant variant;
        int count = 0;

        Filler(Variant variant) {
            this.variant = variant;
        }

        void fill(Object message, Schema schema) throws Exception {
            for (var bound : schema.fields()) {
                if (bound.def.type instanceof TaggedFields tagged) {
                    for (Field field : new TreeMap<>(tagged.fields()).values()) {
                        set(message, field);
                    }
                    if (variant == Variant.ODD) {
                        var unknown = new RawTaggedField(99, new byte[] {1, 2, 3});
                        ((Message) message).unknownTaggedFields().add(unknown);
                    }
                } else {
                    set(message, bound.def);
                }
            }
        }

        void set(Object message, Field field) throws Exception {
            String name = "set" + field.name.replace("_", "");
            for (Method method : message.getClass().getMethods()) {
                if (method.getName().equalsIgnoreCase(name) && method.getParameterCount() == 1) {
                    method.invoke(message, value(method, field));
                    return;
                }
            }
            throw new IllegalStateException(message.getClass() + " has no " + name);
        }

        Object value(Method setter, Field field) throws Exception {
            if (variant == Variant.NULL && field.type.isNullable()) {
                return null;
            }
            Class<?> type = setter.getParameterTypes()[0];
            if (Collection.class.isAssignableFrom(type)) {
                return list(setter, type, field.type.arrayElementType().orElseThrow());
            }
            return one(type, field.type, field.name);
        }

        @SuppressWarnings({"unchecked", "rawtypes"})
        Collection list(Method setter, Class<?> type, Type of) throws Exception {
            boolean plain = type == List.class;
            var generic =
                plain ? setter.getGenericParameterTypes()[0] : type.getGenericSuperclass();
            Class<?> element = (Class<?>) ((ParameterizedType) generic).getActualTypeArguments()[0];
            Collection list =
                plain ? new ArrayList() : (Collection) type.getDeclaredConstructor().newInstance();
            for (int n = 0; n < (variant == Variant.FULL ? 2 : 1); n++) {
                list.add(one(element, of, ""));
            }
            return list;
        }

        Object one(Class<?> type, Type of, String name) throws Exception {
            if (of instanceof Schema schema) {
                Object message = type.getDeclaredConstructor().newInstance();
                fill(message, schema);
                return message;
            }
            count++;
            boolean odd = variant == Variant.ODD;
            if (name.equals("state")) {
                return (byte) (odd ? 2 : 1);
            }
            return switch (of.toString()) {
                case "BOOLEAN" -> true;
                case "INT8" -> (byte) (odd ? Byte.MIN_VALUE + count : count);
                case "INT16" -> (short) (odd ? Short.MIN_VALUE + count : 1000 + count);
                case "UINT16" -> odd ? 65535 - count : 30000 + count;
                case "INT32" -> odd ? Integer.MIN_VALUE + count : 100000 + count;
                case "UINT32" -> odd ? 0xffffffffL - count : 200000L + count;
                case "INT64" -> odd ? Long.MIN_VALUE + count : 10000000000L + count;
                case "FLOAT64" -> odd ? -Double.MAX_VALUE : count + 0.25;
                case "UUID" -> new Uuid(odd ? Long.MIN_VALUE + count : count, -1 - count);
                case "STRING", "COMPACT_STRING", "NULLABLE_STRING", "COMPACT_NULLABLE_STRING" ->
                    text();
                case "BYTES", "COMPACT_BYTES", "NULLABLE_BYTES", "COMPACT_NULLABLE_BYTES" ->
                    type == byte[].class ? content() : ByteBuffer.wrap(content());
                case "RECORDS", "COMPACT_RECORDS", "NULLABLE_RECORDS", "COMPACT_NULLABLE_RECORDS" ->
                    MemoryRecords.withRecords(Compression.NONE, new SimpleRecord(count, content()));
                default -> throw new IllegalStateException(name + ": " + of + " " + type);
            };
        }

        /** Odd: characters of two bytes, and a length of two bytes. */
        String text() {
            if (variant == Variant.ODD) {
                return "\u00e9\"\\\n" + "x".repeat(count % 8 == 1 ? 124 : 0) + count;
            }
            return "s" + (100 + count);
        }

        byte[] content() {
            return new byte[] {0, (byte) 0xff, (byte) count};
        }
    }

    interface New {
        ApiMessage get() throws Exception;
    }

    interface Added {
        void add(String variant, ApiMessage message) throws Exception;
    }

    /** A message in each variant, and with each tagged field alone. */
    static void variants(New make, short version, Added added) throws Exception {
        Schema schema = schema(make.get(), version);
        List<String> seen = new ArrayList<>();
        for (Variant variant : Variant.values()) {
            ApiMessage message = make.get();
            if (variant != Variant.DEFAULT) {
                new Filler(variant).fill(message, schema);
            }
            once(variant.name().toLowerCase(), message, version, seen, added);
        }
        for (var bound : schema.fields()) {
            if (bound.def.type instanceof TaggedFields tagged && tagged.fields().size() > 1) {
                for (Field field : new TreeMap<>(tagged.fields()).values()) {
                    ApiMessage message = make.get();
                    new Filler(Variant.FULL).set(message, field);
                    once(field.name, message, version, seen, added);
                }
            }
        }
    }

    /** A message without fields has one variant. */
    static void once(
        String variant, ApiMessage message, short version, List<String> seen, Added added)
        throws Exception {
        String bytes = hex(MessageUtil.toVersionPrefixedBytes(version, message));
        if (!seen.contains(bytes)) {
            seen.add(bytes);
            added.add(variant, message);
        }
    }

    static Schema schema(ApiMessage message, short version) throws Exception {
        return ((Schema[]) message.getClass().getField("SCHEMAS").get(null))[version];
    }

    static <T extends Message> T parse(T into, byte[] versioned) {
        ByteBuffer buffer = ByteBuffer.wrap(versioned);
        short version = buffer.getShort();
        into.read(new ByteBufferAccessor(buffer), version);
        if (buffer.hasRemaining()) {
            throw new IllegalStateException(buffer.remaining() + " bytes behind the end");
        }
        return into;
    }

    static JsonNode json(Message message, short version) throws Exception {
        Class<?> converter = Class.forName(message.getClass().getName() + "JsonConverter");
        Method write = converter.getMethod("write", message.getClass(), short.class);
        return (JsonNode) write.invoke(null, message, version);
    }

    // ---- records of coordinators ----

    static List<Case> coordinator(String which) throws Exception {
        List<Case> cases = new ArrayList<>();
        Class<?> types = Class.forName(GENERATED.formatted(which, "CoordinatorRecordType"));
        for (Object type : types.getEnumConstants()) {
            New newKey = () -> (ApiMessage) types.getMethod("newRecordKey").invoke(type);
            New newValue = () -> (ApiMessage) types.getMethod("newRecordValue").invoke(type);
            String name = newValue.get().getClass().getSimpleName().replace("Value", "");
            Reader reader = (key, value) -> {
                String keys = parse(newKey.get(), key).toString();
                return value == null ? keys : keys + settled(parse(newValue.get(), value));
            };
            ApiMessage key = newKey.get();
            new Filler(Variant.FULL).fill(key, schema(key, (short) 0));
            byte[] keyBytes = MessageUtil.toCoordinatorTypePrefixedBytes(key);
            ObjectNode both = JSON.objectNode();
            both.set("key", json(key, (short) 0));
            cases.add(new Case(name + "/tombstone", keyBytes, null, both, reader));
            short lowest = (short) types.getMethod("lowestSupportedVersion").invoke(type);
            short highest = (short) types.getMethod("highestSupportedVersion").invoke(type);
            for (short version = lowest; version <= highest; version++) {
                short at = version;
                variants(newValue, at, (variant, value) -> {
                    ObjectNode fields = both.deepCopy();
                    fields.set("value", json(value, at));
                    byte[] valueBytes = MessageUtil.toVersionPrefixedBytes(at, value);
                    String full = name + "/" + at + "/" + variant;
                    cases.add(new Case(full, keyBytes, valueBytes, fields, reader));
                });
            }
        }
        return cases;
    }

    /** As text, with what a coordinator puts in place of what an older version left out. */
    static String settled(ApiMessage value) {
        if (value instanceof GroupMetadataValue group) {
            for (var member : group.members()) {
                if (member.rebalanceTimeout() == -1) {
                    member.setRebalanceTimeout(member.sessionTimeout());
                }
            }
        }
        // No member of the classic protocol has the empty default. Corelane takes it for null.
        if (value instanceof ConsumerGroupMemberMetadataValue member) {
            var empty = new ConsumerGroupMemberMetadataValue.ClassicMemberMetadata();
            if (empty.equals(member.classicMemberMetadata())) {
                member.setClassicMemberMetadata(null);
            }
        }
        if (value instanceof ConsumerGroupCurrentMemberAssignmentValue member) {
            var topics = new ArrayList<>(member.assignedPartitions());
            topics.addAll(member.partitionsPendingRevocation());
            for (var topic : topics) {
                if (topic.assignmentEpochs() == null) {
                    int count = topic.partitions().size();
                    var epochs = Collections.nCopies(count, member.memberEpoch());
                    topic.setAssignmentEpochs(epochs);
                }
            }
        }
        return value.toString();
    }

    // ---- records of the metadata log ----

    static List<Case> metadata() throws Exception {
        List<Case> cases = new ArrayList<>();
        for (MetadataRecordType type : MetadataRecordType.values()) {
            short lowest = type.lowestSupportedVersion();
            for (short version = lowest; version <= type.highestSupportedVersion(); version++) {
                short at = version;
                variants(type::newMetadataRecord, at, (variant, message) -> {
                    byte[] value = metadata(message, at);
                    JsonNode fields = MetadataJsonConverters.writeJson(message, at);
                    String name = message.getClass().getSimpleName() + "/" + at + "/" + variant;
                    cases.add(new Case(name, null, value, fields, Golden::readMetadata));
                });
            }
        }
        return cases;
    }

    static byte[] metadata(ApiMessage message, short version) {
        var record = new ApiMessageAndVersion(message, version);
        var cache = new ObjectSerializationCache();
        MetadataRecordSerde serde = MetadataRecordSerde.INSTANCE;
        ByteBuffer out = ByteBuffer.allocate(serde.recordSize(record, cache));
        serde.write(record, cache, new ByteBufferAccessor(out));
        return out.array();
    }

    static String readMetadata(byte[] key, byte[] value) {
        var in = new ByteBufferAccessor(ByteBuffer.wrap(value));
        return MetadataRecordSerde.INSTANCE.read(in, value.length).toString();
    }

    // ---- what members of a classic consumer group send each other ----

    static List<Case> consumerProtocol() throws Exception {
        List<Case> cases = new ArrayList<>();
        List<New> kinds =
            List.of(ConsumerProtocolSubscription::new, ConsumerProtocolAssignment::new);
        for (New make : kinds) {
            for (short version = 0; version <= make.get().highestSupportedVersion(); version++) {
                short at = version;
                variants(make, at, (variant, message) -> {
                    byte[] value = MessageUtil.toVersionPrefixedBytes(at, message);
                    String name = message.getClass().getSimpleName() + "/" + at + "/" + variant;
                    Reader reader = (k, v) -> parse(make.get(), v).toString();
                    cases.add(new Case(name, null, value, json(message, at), reader));
                });
            }
        }
        return cases;
    }

    // ---- requests and responses ----

    /** Keys of the APIs that Corelane has. */
    static final int[] APIS = {
        0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 32, 33, 35, 37, 42,
        44, 47, 60, 68, 69, 74, 75};

    /** Each version with everything set, and with everything null that can be. */
    static List<Case> apis() throws Exception {
        List<Case> cases = new ArrayList<>();
        for (int key : APIS) {
            ApiMessageType type = ApiMessageType.fromApiKey((short) key);
            short highest = type.highestSupportedVersion(true);
            for (short version = type.lowestSupportedVersion(); version <= highest; version++) {
                api(cases, type::newRequest, version);
                api(cases, type::newResponse, version);
            }
        }
        return cases;
    }

    static void api(List<Case> cases, New make, short version) throws Exception {
        List<String> seen = new ArrayList<>();
        for (Variant variant : List.of(Variant.FULL, Variant.NULL)) {
            ApiMessage message = make.get();
            new Filler(variant).fill(message, schema(message, version));
            byte[] value = MessageUtil.toVersionPrefixedBytes(version, message);
            if (!seen.contains(hex(value))) {
                seen.add(hex(value));
                String name = message.getClass().getSimpleName().replace("Data", "");
                name += "/" + version + "/" + variant.name().toLowerCase();
                Reader reader = (k, v) -> parse(make.get(), v).toString();
                cases.add(new Case(name, null, value, JSON.objectNode(), reader));
            }
        }
    }

    // ---- batches ----

    static final long TIME = 1_700_000_000_000L;

    static List<Case> batches() throws Exception {
        List<Case> cases = new ArrayList<>();
        TimestampType create = TimestampType.CREATE_TIME;
        for (CompressionType codec : CompressionType.values()) {
            batch(cases, codec.name, build(codec, create, false, false));
        }
        CompressionType none = CompressionType.NONE;
        batch(cases, "log-append-time", build(none, TimestampType.LOG_APPEND_TIME, false, false));
        batch(cases, "idempotent", build(none, create, true, false));
        batch(cases, "transactional", build(CompressionType.ZSTD, create, true, true));
        ByteBuffer empty = ByteBuffer.allocate(DefaultRecordBatch.RECORD_BATCH_OVERHEAD);
        DefaultRecordBatch.writeEmptyHeader(
            empty, (byte) 2, 77, (short) 3, 12, 40, 49, 5, create, TIME, true, false);
        batch(cases, "empty", MemoryRecords.readableRecords(empty.flip()));
        batch(cases, "delete-horizon", deleteHorizon());
        for (ControlRecordType type : List.of(ControlRecordType.ABORT, ControlRecordType.COMMIT)) {
            var marker = new EndTransactionMarker(type, 9);
            var end = MemoryRecords.withEndTransactionMarker(5, TIME, 7, 77L, (short) 3, marker);
            batch(cases, type.name(), end);
        }
        controls(cases, ControlRecordType.LEADER_CHANGE, LeaderChangeMessage::new);
        controls(cases, ControlRecordType.SNAPSHOT_HEADER, SnapshotHeaderRecord::new);
        controls(cases, ControlRecordType.SNAPSHOT_FOOTER, SnapshotFooterRecord::new);
        controls(cases, ControlRecordType.KRAFT_VERSION, KRaftVersionRecord::new);
        controls(cases, ControlRecordType.KRAFT_VOTERS, VotersRecord::new);
        return cases;
    }

    /** A control record says its version itself, in its first field. */
    static void controls(List<Case> cases, ControlRecordType type, New make) throws Exception {
        for (short version = 0; version <= make.get().highestSupportedVersion(); version++) {
            short at = version;
            variants(make, at, (variant, message) -> {
                message.getClass().getMethod("setVersion", short.class).invoke(message, at);
                var out = new ByteBufferOutputStream(4096);
                var value = MessageUtil.toByteBufferAccessor(message, at).buffer();
                try (var builder = new MemoryRecordsBuilder(
                    out, (byte) 2, Compression.NONE, TimestampType.CREATE_TIME, 5, TIME, -1L,
                    (short) -1, -1, false, true, 7, 4096)) {
                    builder.appendControlRecord(TIME, type, value);
                    batch(cases, type.name() + "/" + at + "/" + variant, builder.build());
                }
            });
        }
    }

    static void batch(List<Case> cases, String name, MemoryRecords records) throws Exception {
        byte[] bytes = MessageUtil.byteBufferToArray(records.buffer().duplicate());
        Reader reader = (k, v) -> batchFields(v).toString();
        cases.add(new Case("batch/" + name, null, bytes, batchFields(bytes), reader));
    }

    static MemoryRecords build(
        CompressionType codec, TimestampType stamps, boolean idempotent, boolean transactional) {
        var builder = MemoryRecords.builder(
            ByteBuffer.allocate(4096), (byte) 2, Compression.of(codec).build(), stamps, 40,
            TIME + 9, idempotent ? 77L : -1, (short) (idempotent ? 3 : -1), idempotent ? 12 : -1,
            transactional, 5);
        byte[] value = "v".repeat(200).getBytes(StandardCharsets.UTF_8);
        Header[] headers = {
            new RecordHeader("h", new byte[] {1, 2}), new RecordHeader("", null),
            new RecordHeader("\u00e9", new byte[0])};
        builder.append(TIME, bytes("6b"), value, headers);
        builder.append(TIME - 5, null, new byte[0], new Header[0]);
        builder.append(TIME + 70_000, new byte[0], null, new Header[0]);
        builder.append(TIME, bytes("00ff"), value, new Header[0]);
        return builder.build();
    }

    /** As compaction leaves it: without some records, and with the time when tombstones may go. */
    static MemoryRecords deleteHorizon() {
        var out = new ByteBufferOutputStream(4096);
        try (var builder = new MemoryRecordsBuilder(
            out, (byte) 2, Compression.NONE, TimestampType.CREATE_TIME, 40, TIME + 9, -1L,
            (short) -1, -1, false, false, 5, 4096, TIME + 86_400_000)) {
            builder.appendWithOffset(42, TIME, bytes("6b"), null, new Header[0]);
            builder.appendWithOffset(47, TIME + 3, bytes("6c"), bytes("01"), new Header[0]);
            return builder.build();
        }
    }

    static ObjectNode batchFields(byte[] bytes) throws Exception {
        var batches = MemoryRecords.readableRecords(ByteBuffer.wrap(bytes)).batches().iterator();
        MutableRecordBatch batch = batches.next();
        batch.ensureValid();
        ObjectNode fields = JSON.objectNode();
        fields.put("baseOffset", batch.baseOffset()).put("lastOffset", batch.lastOffset());
        fields.put("leaderEpoch", batch.partitionLeaderEpoch());
        fields.put("codec", batch.compressionType().name);
        fields.put("timestampType", batch.timestampType().name);
        fields.put("maxTimestamp", batch.maxTimestamp());
        fields.put("transactional", batch.isTransactional()).put("control", batch.isControlBatch());
        fields.put("producerId", batch.producerId()).put("producerEpoch", batch.producerEpoch());
        fields.put("baseSequence", batch.baseSequence());
        fields.put("deleteHorizonMs", batch.deleteHorizonMs().orElse(-1));
        ArrayNode records = fields.putArray("records");
        for (Record record : batch) {
            ObjectNode one = records.addObject();
            one.put("offset", record.offset()).put("timestamp", record.timestamp());
            one.put("key", hex(bytes(record.key()))).put("value", hex(bytes(record.value())));
            ArrayNode headers = one.putArray("headers");
            for (Header header : record.headers()) {
                headers.addArray().add(header.key()).add(hex(header.value()));
            }
            if (batch.isControlBatch()) {
                control(one, record);
            }
        }
        if (batches.hasNext()) {
            throw new IllegalStateException("a second batch");
        }
        return fields;
    }

    static void control(ObjectNode into, Record record) throws Exception {
        ControlRecordType type = ControlRecordType.parse(record.key());
        into.put("type", type.name());
        byte[] value = bytes(record.value());
        Message message = switch (type) {
            case ABORT, COMMIT -> new EndTxnMarker();
            case LEADER_CHANGE -> new LeaderChangeMessage();
            case SNAPSHOT_HEADER -> new SnapshotHeaderRecord();
            case SNAPSHOT_FOOTER -> new SnapshotFooterRecord();
            case KRAFT_VERSION -> new KRaftVersionRecord();
            case KRAFT_VOTERS -> new VotersRecord();
            default -> throw new IllegalStateException(type.toString());
        };
        boolean marker = message instanceof EndTxnMarker;
        short version = ByteBuffer.wrap(value).getShort();
        if (marker) {
            parse(message, value);
        } else {
            message.read(new ByteBufferAccessor(ByteBuffer.wrap(value)), version);
        }
        into.set("data", json(message, version));
    }

    // ---- files ----

    interface Written {
        void to(File file) throws Exception;
    }

    interface FileReader {
        JsonNode read(File file) throws Exception;
    }

    static List<Case> files() throws Exception {
        List<Case> cases = new ArrayList<>();
        checkpoints(cases);
        file(cases, "partition.metadata", f -> {
            var metadata = new PartitionMetadataFile(f, FAILURES);
            metadata.record(ID);
            metadata.maybeFlush();
        }, f -> {
            var read = new PartitionMetadataFile(f, FAILURES).read();
            ObjectNode out = JSON.objectNode().put("version", read.version());
            return out.put("topicId", read.topicId().toString());
        });
        file(cases, "meta.properties", f -> {
            var meta = new MetaProperties.Builder().setVersion(MetaPropertiesVersion.V1);
            meta.setClusterId("MkU3OEVBNTcwNTJENDM2Qg").setNodeId(7).setDirectoryId(ID);
            PropertiesUtils.writePropertiesFile(meta.build().toProperties(), f.getPath(), false);
            // The second line is the time.
            String text = Files.readString(f.toPath());
            Files.writeString(f.toPath(), text.replaceAll("(?m)^#.*$", "#"));
        }, f -> {
            Properties read = PropertiesUtils.readPropertiesFile(f.getPath());
            var meta = new MetaProperties.Builder(read).build();
            ObjectNode out = JSON.objectNode().put("version", meta.version().number());
            out.put("clusterId", meta.clusterId().orElse(null));
            out.put("nodeId", meta.nodeId().orElse(-1));
            return out.put("directoryId", meta.directoryId().map(Uuid::toString).orElse(null));
        });
        file(cases, CleanShutdownFileHandler.CLEAN_SHUTDOWN_FILE_NAME,
            f -> new CleanShutdownFileHandler(f.getParent()).write(42), f -> {
                OptionalLong epoch = new CleanShutdownFileHandler(f.getParent()).read();
                return JSON.objectNode().put("brokerEpoch", epoch.orElse(-1));
            });
        snapshots(cases);
        indexes(cases);
        return cases;
    }

    static final LogDirFailureChannel FAILURES = new LogDirFailureChannel(1);
    static final Uuid ID = new Uuid(0x0123456789abcdefL, -2);

    static void checkpoints(List<Case> cases) throws Exception {
        FileReader offsets = f -> {
            Map<String, Long> sorted = new TreeMap<>();
            var read = new OffsetCheckpointFile(f, FAILURES).read();
            read.forEach((partition, offset) -> sorted.put(partition.toString(), offset));
            ArrayNode out = JSON.arrayNode();
            sorted.forEach((partition, offset) -> out.addArray().add(partition).add(offset));
            return out;
        };
        Map<TopicPartition, Long> two = new LinkedHashMap<>();
        two.put(new TopicPartition("a", 0), 5L);
        two.put(new TopicPartition("b.c-d_e", 12), Long.MAX_VALUE);
        for (Map<TopicPartition, Long> each : List.of(Map.<TopicPartition, Long>of(), two)) {
            file(cases, "offset-checkpoint/" + each.size(),
                f -> new OffsetCheckpointFile(f, FAILURES).write(each), offsets);
        }
        FileReader epochs = f -> {
            ArrayNode out = JSON.arrayNode();
            for (EpochEntry entry : new LeaderEpochCheckpointFile(f, FAILURES).read()) {
                out.addArray().add(entry.epoch()).add(entry.startOffset());
            }
            return out;
        };
        List<EpochEntry> entries = List.of(new EpochEntry(0, 0), new EpochEntry(7, 1L << 40));
        for (List<EpochEntry> each : List.of(List.<EpochEntry>of(), entries)) {
            file(cases, "leader-epoch-checkpoint/" + each.size(),
                f -> new LeaderEpochCheckpointFile(f, FAILURES).write(each), epochs);
        }
    }

    static void snapshots(List<Case> cases) throws Exception {
        Map<Long, ProducerStateEntry> producers = new LinkedHashMap<>();
        producers.put(5L, new ProducerStateEntry(5, (short) 1, 2, TIME, OptionalLong.of(44)));
        producers.put(6L, new ProducerStateEntry(6, (short) 0, 4, TIME + 5, OptionalLong.empty()));
        long large = 1L << 40;
        var last = new ProducerStateEntry(large, Short.MAX_VALUE, -1, TIME, OptionalLong.empty());
        producers.put(large, last);
        // What a producer's last batch was is for that package alone to say.
        Method add = ProducerStateEntry.class.getDeclaredMethod(
            "addBatch", short.class, int.class, long.class, int.class, long.class);
        add.setAccessible(true);
        add.invoke(producers.get(5L), (short) 1, 30, 90L, 4, TIME + 1);
        add.invoke(last, Short.MAX_VALUE, 1, 1L << 41, 3, TIME + 2);
        FileReader reader = f -> {
            // Corelane writes an entry for each of the last batches: for Kafka the newest counts.
            Map<Long, ObjectNode> newest = new TreeMap<>();
            for (ProducerStateEntry entry : ProducerStateManager.readSnapshot(f)) {
                ObjectNode one = JSON.objectNode();
                newest.put(entry.producerId(), one);
                one.put("producerId", entry.producerId()).put("epoch", entry.producerEpoch());
                one.put("coordinatorEpoch", entry.coordinatorEpoch());
                one.put("timestamp", entry.lastTimestamp());
                one.put("transactionFirstOffset", entry.currentTxnFirstOffset().orElse(-1));
                for (BatchMetadata batch : entry.batchMetadata()) {
                    one.put("lastSequence", batch.lastSeq()).put("lastOffset", batch.lastOffset());
                    one.put("offsetDelta", batch.offsetDelta());
                }
            }
            ArrayNode out = JSON.arrayNode();
            newest.values().forEach(out::add);
            return out;
        };
        snapshot(cases, "producers/0", Map.of(), reader);
        snapshot(cases, "producers/3", producers, reader);
        var window = new ProducerStateEntry(7, (short) 2, -1, -1, OptionalLong.empty());
        for (int n = 0; n < 5; n++) {
            add.invoke(window, (short) 2, 2 * n + 1, 101L + 2 * n, 1, 1000L + n);
        }
        snapshot(cases, "producers/window", Map.of(7L, window), reader);
    }

    static void snapshot(
        List<Case> cases, String name, Map<Long, ProducerStateEntry> producers, FileReader reader)
        throws Exception {
        file(cases, name, f -> ProducerStateManager.writeSnapshot(f, producers, false), reader);
    }

    static final long BASE = 1000;

    static void indexes(List<Case> cases) throws Exception {
        file(cases, "index", f -> {
            try (var index = new OffsetIndex(f, BASE, 800)) {
                for (int n = 1; n <= 5; n++) {
                    index.append(BASE + 10 * n - 1, 5000 * n);
                }
                index.trimToValidSize();
            }
        }, f -> {
            try (var index = new OffsetIndex(f, BASE, -1, false)) {
                index.sanityCheck();
                ArrayNode out = JSON.arrayNode();
                for (int n = 0; n < index.entries(); n++) {
                    out.addArray().add(index.entry(n).offset()).add(index.entry(n).position());
                }
                return out;
            }
        });
        file(cases, "timeindex", f -> {
            try (var index = new TimeIndex(f, BASE, 1200)) {
                for (int n = 1; n <= 5; n++) {
                    index.maybeAppend(TIME + 100 * n, BASE + 10 * n - 3);
                }
                index.trimToValidSize();
            }
        }, f -> {
            try (var index = new TimeIndex(f, BASE, -1, false)) {
                index.sanityCheck();
                ArrayNode out = JSON.arrayNode();
                for (int n = 0; n < index.entries(); n++) {
                    out.addArray().add(index.entry(n).timestamp()).add(index.entry(n).offset());
                }
                return out;
            }
        });
        file(cases, "txnindex", f -> {
            try (var index = new TransactionIndex(BASE, f)) {
                index.append(new AbortedTxn(5, 1003, 1009, 1001));
                index.append(new AbortedTxn(1L << 40, 1001, 1020, 1021));
            }
        }, f -> {
            try (var index = new TransactionIndex(BASE, f)) {
                index.sanityCheck();
                ArrayNode out = JSON.arrayNode();
                for (AbortedTxn each : index.allAbortedTxns()) {
                    ObjectNode one = out.addObject().put("version", each.version());
                    one.put("producerId", each.producerId()).put("firstOffset", each.firstOffset());
                    one.put("lastOffset", each.lastOffset());
                    one.put("lastStableOffset", each.lastStableOffset());
                }
                return out;
            }
        });
    }

    /** In a directory of its own, under the name that Kafka would give it. */
    static void file(List<Case> cases, String name, Written written, FileReader reader)
        throws Exception {
        byte[] bytes = inPlace(name, file -> {
            written.to(file);
            return Files.readAllBytes(file.toPath());
        });
        Reader read = (key, value) -> inPlace(name, file -> {
            Files.write(file.toPath(), value);
            return reader.read(file).toString();
        });
        JsonNode fields = inPlace(name, file -> {
            Files.write(file.toPath(), bytes);
            return reader.read(file);
        });
        cases.add(new Case("file/" + name, null, bytes, fields, read));
    }

    interface Work<T> {
        T on(File file) throws Exception;
    }

    static <T> T inPlace(String name, Work<T> work) throws Exception {
        Path dir = Files.createTempDirectory("golden");
        String file = switch (name.split("/")[0]) {
            case "index", "timeindex", "txnindex" -> "%020d.%s".formatted(BASE, name);
            case "producers" -> "%020d.snapshot".formatted(BASE);
            default -> name.split("/")[0];
        };
        try {
            return work.on(dir.resolve(file).toFile());
        } finally {
            try (var files = Files.list(dir)) {
                for (Path path : files.toList()) {
                    Files.delete(path);
                }
            }
            Files.delete(dir);
        }
    }
}
