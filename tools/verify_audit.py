#!/usr/bin/env python3
"""Checks Doorward's audit logs and proofs without Doorward: written from docs/audit-format.md.

    verify_audit.py log var/audit/main [--anchor FILE]... [--root-key VKEY] [--key VKEY]...
    verify_audit.py proof FILE_OR_FOLDER... --key VKEY...

A folder stands for the files in it that end in .proof; a key may be a file with one on each line.
Prints a line of JSON on the log, with what it finds wrong first, or on each proof. Exit code 0: it
is sound; 3: it is not; 2: usage. Needs Python 3.9 and `cryptography`. No gateway may be writing.
"""
import argparse
import base64
import functools
import hashlib
import json
import pathlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NUMBER = r"(0|[1-9][0-9]{0,15})"
SIGNATURE = "\u2014 ([^\\s+]+) (\\S+)\n"
CHECKPOINT = (
    rf'([^\s"+]+)\n{NUMBER}\n(\S{{44}})\n(?:first {NUMBER}\n)?segment {NUMBER}\n'
    rf"time (\S{{20}})\n(?:next (\S+)\n)?\n(?:{SIGNATURE})+"
)
CERTIFICATE = rf"doorward audit key\n(\S+)\n{NUMBER}\n(\S+)\n\n(?:{SIGNATURE})+"
SEGMENTS, SEALS = "segments/" + "[0-9]" * 20 + ".jsonl", "seals/" + "[0-9]" * 20 + ".note"
PROOF = r'\{"doorward_proof":1,"path":"(.*?)","checkpoint":("(?:[^"\\]|\\.)*"),"record":(\{.*)\}'


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def unbase64(text):
    """The bytes, where the text is the one way to write them; else none."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    return data if base64.b64encode(data).decode() == text else b""


def root_of(peaks):
    """The root of an RFC 6962 tree, kept as those of its perfect subtrees, largest first."""
    return functools.reduce(lambda node, peak: sha256(b"\1", peak, node), reversed(peaks))


def read(path):
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def unsigned(note, vkey):
    """None where this key has signed the note; else what is wrong."""
    text, _, lines = note.rpartition("\n\n")
    name, digits, key = (*vkey.split("+", 2), "", "")[:3]
    key_id, key = sha256(name.encode(), b"\n", unbase64(key))[:4], unbase64(key)
    signed = [(signer, unbase64(data)) for signer, data in re.findall(SIGNATURE, lines)]
    ours = [data[4:] for signer, data in signed if (signer, data[:4]) == (name, key_id)]
    if not 0 < len(ours) <= len(signed) <= 100 or (key[:1], key_id.hex()) != (b"\1", digits):
        return "it is not signed by the key of its segment"
    try:
        for signature in ours:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature, f"{text}\n".encode())
    except (InvalidSignature, ValueError):
        return "its signature is false"


class Claim:
    """A checkpoint: the newest of a log, a seal, an anchor, or that of a proof."""
    def __init__(self, file, note, is_anchor=False):
        parts = re.fullmatch(CHECKPOINT, note)
        if not parts or parts[4] in ("0", "1") or not unbase64(parts[3]):
            raise ValueError("it is not a signed checkpoint", file)
        self.file, self.note, self.is_anchor, self.name = file, note, is_anchor, parts[1]
        self.root, self.time, self.next = unbase64(parts[3]), parts[6], parts[7]
        self.size, self.first, self.segment = int(parts[2]), int(parts[4] or 1), int(parts[5])
        self.last, self.is_seal = self.first + self.size - 1, file.startswith("seals/")
        if self.is_seal and (file != f"seals/{self.segment:020}.note" or not self.next):
            raise ValueError("it is not the checkpoint that ends this segment", file)


def kept(file):
    """The checkpoints in a file: notes as they are, and in JSON strings."""
    text = read(file).replace("\\n", "\n").replace("\\/", "/").replace("\\u2014", "\u2014")
    return [Claim(file.name, note[0], is_anchor=True) for note in re.finditer(CHECKPOINT, text)]


class Log:
    """The folder of one origin. Raises what it finds wrong: what, which file, which record."""
    def __init__(self, folder, asked, keys):
        self.folder, self.end, self.trusted = folder, f"/{folder.name}", keys
        self.segments = {int(path.stem): path for path in sorted(folder.glob(SEGMENTS))}
        self.seals = {int(path.stem): path for path in sorted(folder.glob(SEALS))}
        self.keys, self.vouched, self.held, self.removals = {}, set(), {}, []
        notes = list(self.seals.values()) + list(folder.glob("checkpoint.note"))
        claims = [Claim(str(path.relative_to(folder)), read(path)) for path in notes]
        claims += [it for file in asked.anchor for it in kept(file) if it.name.endswith(self.end)]
        self.claims = sorted(claims, key=lambda claim: (claim.last, claim.is_anchor))
        self.all, self.next, self.first, self.borne_out = self.claims[:], 1, 1, 0
        self.chain, self.peaks = sha256(b"\3", folder.name.encode()), []
        if asked.root_key:
            note = read(folder / "root.note")
            word = re.fullmatch(CERTIFICATE, note)
            if not word or unsigned(note, asked.root_key) or not word[1].endswith(self.end):
                raise ValueError("the root key vouches for nothing", "root.note")
            self.expect_key(int(word[2]), word[3], "root.note")
            self.vouched.add(int(word[2]))

    def expect_key(self, segment, key, file):
        if not key.split("+")[0].endswith(self.end) or self.keys.setdefault(segment, key) != key:
            raise ValueError("the segment has another key, or another log's", file, segment)

    def lacks(self, segment, last, file):
        """What a seal lacks may be to come, unless the seal is elsewhere or more is signed."""
        others = [one for one in self.all if (one.is_seal, one.segment) != (True, segment)]
        follows = segment != max(self.segments)
        ends = [one.last + bool(one.next and one.segment == segment) for one in others]
        if max(ends, default=last + follows) > last or segment not in list(self.segments)[-2:]:
            raise ValueError("it is missing", file, last)
        self.held.update({"unsealed": last} if follows or segment in self.seals else {})

    def beside(self, seal):
        """The chain and the tree that stand beside a seal; nothing where they are to come."""
        name = f"seals/{seal.segment:020}.peaks"
        if not (self.folder / name).exists():
            return self.lacks(seal.segment, seal.last, name)
        text = re.fullmatch(r"chain ([0-9a-f]{64})\n((?:\S{44}\n)*)", read(self.folder / name))
        peaks = [unbase64(line) for line in text[2].split()] if text else []
        if all(peaks) and len(peaks) == bin(seal.size).count("1") and root_of(peaks) == seal.root:
            return bytes.fromhex(text[1]), peaks
        raise ValueError("it is not the tree that the seal signs", name, seal.last)

    def verify(self):
        if not self.segments:
            raise ValueError("there are no records", "segments", 1)
        begin = min(self.segments)
        while self.claims and self.claims[0].last < begin:
            claim = self.claims.pop(0)
            self.judge(claim, None)
            if claim.is_seal and claim.segment == self.next:
                (self.chain, self.peaks), self.first = self.beside(claim), claim.first
                self.next = claim.last + 1
        for first, path in self.segments.items():
            with open(path, "rb") as file:
                for number, line in enumerate(file):
                    self.record(line, path.name, number == 0 and first)
            for claim in self.claims if first == max(self.segments) else []:
                raise ValueError(f"it covers records up to {claim.last}", claim.file, self.next)
            if first in self.keys and first not in self.seals:
                self.lacks(first, self.next - 1, f"seals/{first:020}.note")
        if self.seals and not (self.folder / "checkpoint.note").exists():
            raise ValueError("it is missing", "checkpoint.note", self.borne_out + 1)
        removed = [name for seq, name in self.removals if seq <= self.held.get("signed", 0)]
        for first in [first for first in self.seals if first < begin]:
            if f"{first:020}.jsonl" > (removed or [""])[-1]:
                raise ValueError("it is gone, and nothing signed says why", "segments", first)
        if self.trusted and "vouched" not in self.held:
            raise ValueError("no key that was given vouches for anything in it")
        return {"verdict": "sound", "last": self.next - 1, **self.held}

    def record(self, line, name, first):
        leaf, seq = sha256(b"\0", line[:-77], b"}"), self.next
        self.chain = sha256(b"\2", self.chain, leaf)
        is_next = line[-77:] == b',"chain":"%s"}\n' % self.chain.hex().encode()
        record = json.loads(line) if is_next else {}
        if record.get("seq") != seq or first and first != seq:
            raise ValueError("the line is torn or changed, or belongs elsewhere", name, seq)
        if record["kind"] == "lifecycle" and first and "log_key" in record:
            self.expect_key(seq, record["log_key"], name)
        if record["kind"] == "lifecycle" and record.get("action") == "prune":
            self.removals.append((seq, record["subject"]))
        size, self.next = seq - self.first, seq + 1
        while size & 1:
            leaf, size = sha256(b"\1", self.peaks.pop(), leaf), size >> 1
        self.peaks.append(leaf)
        while self.claims and self.claims[0].last <= seq:
            self.judge(self.claims.pop(0), root_of(self.peaks))

    def judge(self, claim, root):
        """Who has signed it, and whether its root is that of the records, where they were read."""
        fits = [key for key in self.trusted if not unsigned(claim.note, key)] + [None]
        key = self.keys.get(claim.segment, fits[0])
        fault = key and unsigned(claim.note, key)
        if not claim.is_anchor and (fault or not claim.name.endswith(self.end)):
            raise ValueError(fault or "it is of another log", claim.file, claim.last)
        if root and (claim.first, claim.root) != (self.first, root):
            seq = min(max(self.borne_out + 1, self.first), claim.last)
            raise ValueError("from here on some record is not what was signed", claim.file, seq)
        if root and claim.is_seal and self.beside(claim) not in (None, (self.chain, self.peaks)):
            raise ValueError("the chain beside it is another", claim.file, claim.last)
        if fault:
            raise ValueError(fault, claim.file, claim.last)
        is_vouched = key in self.trusted or claim.segment in self.vouched
        if claim.next and not claim.is_anchor:
            self.expect_key(claim.last + 1, claim.next, claim.file)
            self.vouched |= {claim.last + 1} if is_vouched else set()
        self.borne_out = claim.last
        names = {"anchored": claim.is_anchor, "vouched": is_vouched, "signed": key}
        self.held.update({name: claim.last for name, is_so in names.items() if is_so and root})


def check_proof(file, keys):
    parts = re.fullmatch(PROOF, read(file).rstrip(), re.DOTALL)
    if not parts:
        raise ValueError("it is no proof")
    claim, record = Claim(file.name, json.loads(parts[2])), json.loads(parts[3])
    place, last = record["seq"] - claim.first, claim.size - 1
    if all(unsigned(claim.note, key) for key in keys if key.startswith(f"{claim.name}+")):
        raise ValueError("its checkpoint is not signed by a key that was given")
    if not 0 <= place <= last or record["origin"] != claim.name.rpartition("/")[2]:
        raise ValueError("the record's number or log is none that its checkpoint covers")
    node, path = sha256(b"\0", parts[3].encode()), unbase64(parts[1])
    for sibling in [path[at : at + 32] for at in range(0, len(path), 32)]:
        is_right = place & 1 or place == last
        node = sha256(b"\1", *((sibling, node) if is_right else (node, sibling)))
        while is_right and place and not place & 1:
            place, last = place >> 1, last >> 1
        place, last = place >> 1, last >> 1
    if last or node != claim.root:
        raise ValueError("the record is not what was signed")
    return {"verdict": "holds", "seq": record["seq"], "log": claim.name, "signed_at": claim.time}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=["log", "proof"])
    parser.add_argument("paths", nargs="+", type=pathlib.Path, metavar="PATH")
    parser.add_argument("--root-key", metavar="VKEY")
    parser.add_argument("--key", action="append", default=[], metavar="VKEY")
    parser.add_argument("--anchor", action="append", default=[], metavar="FILE", type=pathlib.Path)
    asked = parser.parse_args()
    keys = [key for word in asked.key for key in (read(pathlib.Path(word)) or word).split()]
    files = [sorted(path.glob("**/*.proof")) if path.is_dir() else [path] for path in asked.paths]
    is_log, code = asked.verb == "log", 0
    for path in asked.paths if is_log else sum(files, []) or parser.error("there is no proof"):
        try:
            said = Log(path.resolve(), asked, keys).verify() if is_log else check_proof(path, keys)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as wrong:
            said, code = dict(zip(("what", "file", "seq"), wrong.args)), 3
            said["verdict"] = "DAMAGED" if is_log else "does not hold"
        print(json.dumps(said))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
