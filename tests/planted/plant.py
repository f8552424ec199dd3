#!/usr/bin/env python3
"""Plants the bugs of bugs.txt in a copy of the tree: plant.py TREE. Prints the names of the bugs.
plant.py --check TREE changes nothing: it says which bugs no longer fit the source."""
import os
import sys

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bugs.txt")
SWITCH = """
/// True when the bug of this name is at work: the one that the environment's PLANTED names.
pub fn planted(name: &str) -> bool {
    static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("PLANTED").unwrap_or_default()) == name
}
"""


class Edit:
    """One text of one file that is replaced by another."""

    def __init__(self, path):
        self.path, self.old, self.new = path, [], []


def read_table():
    """The edits of each bug."""
    bugs, edits = {}, None
    for number, line in enumerate(open(TABLE), 1):
        line = line.rstrip("\n")
        mark, text = line[:2], line[2:]
        if not line or line.startswith("#") or line.startswith("    "):
            continue
        elif mark == "@ ":
            edits.append(Edit(text))
        elif mark.strip() == "-":
            edits[-1].old.append(text)
        elif mark.strip() == "+":
            edits[-1].new.append(text)
        elif ": " in line:
            edits = bugs.setdefault(line.split(": ")[0], [])
        else:
            sys.exit(f"{TABLE}:{number}: neither a name nor a part of an edit: {line}")
    return bugs


def plant(tree, bugs):
    """The changed files by path, and what does not fit."""
    files, misfits = {}, []
    for name, edits in bugs.items():
        for edit in edits:
            if edit.path not in files:
                files[edit.path] = open(os.path.join(tree, edit.path)).read()
            old, new = "\n".join(edit.old), "\n".join(edit.new)
            found = files[edit.path].count(old) if old else 0
            if found != 1:
                misfits.append(f"{name}: {edit.path} has this {found} times, not once:\n{old}")
                continue
            new = new.replace("PLANTED", f'crate::planted("{name}")')
            files[edit.path] = files[edit.path].replace(old, new)
        if not edits:
            misfits.append(f"{name}: no edit")
    return files, misfits


def main():
    arguments = sys.argv[1:]
    check = arguments[:1] == ["--check"]
    (tree,) = arguments[1:] if check else arguments
    bugs = read_table()
    files, misfits = plant(tree, bugs)
    if misfits:
        sys.exit("tests/planted/bugs.txt does not fit the source:\n" + "\n".join(misfits))
    if check:
        return
    files["src/lib.rs"] = open(os.path.join(tree, "src/lib.rs")).read() + SWITCH
    for path, text in files.items():
        with open(os.path.join(tree, path), "w") as file:
            file.write(text)
    print("\n".join(bugs))


main()
