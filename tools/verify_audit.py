#!/usr/bin/env python3
"""Checks Doorward's audit logs and proofs without Doorward: written from docs/audit-format.md.

    verify_audit.py log var/audit/main [--anchor FILE]... [--root-key VKEY] [--key VKEY]...
    verify_audit.py proof FILE --key VKEY

Prints one line of JSON with the verdict, and of what is wrong the first. Exit code 0: sound; 3: not; 2: usage.
Needs Python 3.9 and the package `cryptography`. No gateway may be writing the log meanwhile.
"""
import argparse, base64, functools, hashlib, json, os, re, sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

NAME = r"[^\s\x00-\x1f\x7f-\x9f+]+"
NUMBER = r"(0|[1-9][0-9]{0,19})"
CHECKPOINT = (
    rf"([^\n]+)\n{NUMBER}\n([^\n]{{44}})\n(?:first {NUMBER}\n)?segment {NUMBER}\ntime ([0-9-]{{10}}T[0-9:]{{8}}Z)\n"
    r"(?:chain ([0-9a-f]{64})\nnext ([^\n]+)\n)?"
)
SIGNATURES = "(?:\u2014 [^ \n]+ [^ \n]+\n)+"


class Wrong(Exception):
    """The first thing that is wrong: the record, the file, and what."""


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def unbase64(text):
    """The bytes, where the text is the one way to write them; else none."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return b""
    return data if base64.b64encode(data).decode() == text else b""


def push(peaks, size, node):
    """Adds a leaf to an RFC 6962 tree, kept as the roots of its perfect subtrees, largest first."""
    while size & 1:
        node = sha256(b"\x01", peaks.pop(), node)
        size >>= 1
    peaks.append(node)


def root_of(peaks):
    return functools.reduce(lambda node, peak: sha256(b"\x01", peak, node), peaks[::-1]) if peaks else sha256()


def leads(leaf, index, size, path):
    """The root that an audit path leads to (RFC 6962, 2.1.1, from the top down); None where it does not fit."""
    if size <= 1 or not path:
        return leaf if size == 1 and not path and index == 0 else None
    half = 1 << ((size - 1).bit_length() - 1)
    is_left = index < half
    node = leads(leaf, index if is_left else index - half, half if is_left else size - half, path[:-1])
    return node and (sha256(b"\x01", node, path[-1]) if is_left else sha256(b"\x01", path[-1], node))


def parse_key(vkey):
    """(name, id, public key) of a vkey; None where it is none."""
    parts = re.fullmatch(rf"({NAME})\+([0-9a-f]{{8}})\+(\S{{44}})", vkey)
    data = unbase64(parts[3]) if parts else b""
    key_id = sha256(parts[1].encode(), b"\n", data)[:4] if data[:1] == b"\1" else b""
    return (parts[1], key_id, data[1:]) if key_id and key_id.hex() == parts[2] else None


def parse_note(note):
    """(text, [(name, key id and signature)]) of a signed note; None where it is none."""
    parts = re.fullmatch(rf"((?:.*\n)+)\n({SIGNATURES})", note)
    if not parts or len(note.encode()) > 65536 or re.search(r"[\x00-\x09\x0b-\x1f\x7f]", parts[1]):
        return None
    signatures = [(line.split(" ")[1], unbase64(line.split(" ")[2])) for line in parts[2].split("\n")[:-1]]
    is_note = len(signatures) <= 100 and all(re.fullmatch(NAME, name) and len(data) > 4 for name, data in signatures)
    return (parts[1], signatures) if is_note else None


def signature_fault(note, key):
    """None where the key has signed the note; else what is wrong."""
    ours = [data[4:] for name, data in note[1] if name == key[0] and data[:4] == key[1]]
    try:
        for signature in ours:
            Ed25519PublicKey.from_public_bytes(key[2]).verify(signature, note[0].encode())
    except (InvalidSignature, ValueError):
        return "its signature is false"
    return None if ours else "it is not signed by the key of its segment"


class Claim:
    """A checkpoint: a "seal", the "newest" one, an "anchor", or that of a "proof"."""

    def __init__(self, source, file, note, named=None):
        fields = re.fullmatch(CHECKPOINT, note[0]) if note else None
        if not fields:
            raise Wrong(named, file, "it is not a signed checkpoint")
        self.source, self.file, self.note, self.fault, self.is_signed, self.is_vouched = source, file, note, None, False, False
        self.name, size, root, first, segment, self.time, chain, successor = fields.groups()
        self.size, self.first, self.segment, self.root = int(size), int(first or 1), int(segment), unbase64(root)
        self.chain, self.next = bytes.fromhex(chain or ""), parse_key(successor or "")
        self.last = self.first + self.size - 1
        if not self.root or first in ("0", "1") or bool(successor) != bool(self.next) or named not in (None, self.segment):
            raise Wrong(named, file, "it is not a signed checkpoint, or that of another segment")


def anchors(path):
    """The checkpoints in a file: notes as they are, and JSON strings that hold one."""
    text = read(path)
    found = [block[0] for block in re.finditer(rf"(?m)^{CHECKPOINT}\n{SIGNATURES}", text)]
    for quote in re.finditer('"', text):
        try:
            found.append(json.JSONDecoder().raw_decode(text, quote.start())[0])
        except ValueError:
            pass
    return [Claim("anchor", path, note) for note in map(parse_note, found) if note and re.fullmatch(CHECKPOINT, note[0])]


def read(path):
    """A file's text; nothing where it is not there."""
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return file.read()


class Log:
    """One origin's folder: `verify` raises what is wrong first, or says up to which record what vouches for the log."""

    def __init__(self, folder, anchor_files, root_key, trusted):
        self.folder, self.origin, self.held, self.keys = folder, os.path.basename(folder), {}, {}
        self.segments, self.seals = self.numbered("segments", ".jsonl"), self.numbered("seals", ".note")
        notes = [("seal", f"seals/{name}", first) for first, name in self.seals.items()]
        notes += [("newest", "checkpoint.note", None)] if self.read("checkpoint.note") else []
        self.claims, self.faults = [], []
        for source, file, first in notes:
            try:
                self.claims.append(Claim(source, file, parse_note(self.read(file)), first))
                if not self.is_ours(self.claims[-1].name):
                    self.fault(first, file, f"it is a checkpoint of another log: {self.claims.pop().name}")
            except Wrong as wrong:
                self.faults.append(wrong)
        self.claims += [claim for file in anchor_files for claim in anchors(file) if self.is_ours(claim.name)]
        self.claims.sort(key=lambda claim: (claim.source == "anchor", claim.segment))
        self.check_keys(root_key, trusted)
        self.newest_segment = max((claim.segment for claim in self.claims), default=0)
        self.starts = {claim.first for claim in self.claims if not claim.fault and claim.first > 1}
        self.claims.sort(key=lambda claim: claim.last)

    def numbered(self, folder, ending):
        path = os.path.join(self.folder, folder)
        names = sorted(os.listdir(path)) if os.path.isdir(path) else []
        return {int(name[:20]): name for name in names if re.fullmatch(r"[0-9]{20}" + re.escape(ending), name)}

    def read(self, path):
        return read(os.path.join(self.folder, path))

    def fault(self, *what):
        self.faults.append(Wrong(*what))

    def faults_up_to(self, seq):
        for fault in self.faults:
            if (fault.args[0] or 0) <= seq:
                raise fault

    def is_ours(self, name):
        return "/" in name and name.rsplit("/", 1)[1] == self.origin

    def check_keys(self, root_key, trusted):
        for first, name in self.segments.items():
            with open(os.path.join(self.folder, "segments", name), "rb") as file:
                body = (split(file.readline(65536)[:-1]) or [b""])[0]
            if field(body, b'"log_key":"') and field(body, b'"kind":"') == b"lifecycle":
                self.keys[first] = parse_key(field(body, b'"log_key":"').decode(errors="replace"))
                if not self.keys[first] or not self.is_ours(self.keys[first][0]):
                    self.fault(first, name, "the segment's first record names no key of this log")
        vouched = {first for first, key in self.keys.items() if key in trusted}
        if root_key:
            note = parse_note(self.read("root.note"))
            text = re.fullmatch(rf"doorward audit key\n([^\n]+)\n{NUMBER}\n([^\n]+)\n", note[0]) if note else None
            if not text or not self.is_ours(text[1]) or signature_fault(note, root_key):
                self.fault(None, "root.note", "the root key vouches for nothing")
            elif self.keys.setdefault(int(text[2]), parse_key(text[3])) != parse_key(text[3]):
                self.fault(int(text[2]), "root.note", "the segment has another key than the root key vouches for")
            else:
                vouched.add(int(text[2]))
        for claim in self.claims:
            key = self.keys.get(claim.segment) or next((key for key in trusted if not signature_fault(claim.note, key)), None)
            claim.is_signed, claim.is_vouched = bool(key), key in trusted or claim.segment in vouched
            claim.fault = key and (signature_fault(claim.note, key) or ("its key is another log's" if key[0] != claim.name else None))
            if claim.next and claim.source != "anchor" and not claim.fault:
                vouched |= {claim.last + 1} if claim.is_signed and claim.is_vouched else set()
                if self.keys.setdefault(claim.last + 1, claim.next) != claim.next:
                    what = "the segment's key is not the one that the seal before it names"
                    self.fault(claim.last + 1, self.segments.get(claim.last + 1, ""), what)
        if any(self.is_ours(key[0]) for key in trusted) and not any(claim.is_vouched and not claim.fault for claim in self.claims):
            self.fault(None, "", "no segment of this log has a key that was given")

    def may_lack_of_seal(self, first, last):
        """Whether what is not there of a segment's seal can be still to come: nothing is signed under the next key before it."""
        is_newest = first in sorted(self.segments)[-2:] and 0 < self.newest_segment <= first
        self.held.update({"unsealed": last} if is_newest else {})
        return is_newest

    def check_retention(self, begin):
        """Segments that are gone before the first one: the newest record of a removal names the last of them, or a later one."""
        pruned = 0
        for name in self.segments.values():
            with open(os.path.join(self.folder, "segments", name), "rb") as file:
                bodies = [split(line[:-1])[0] for line in file if line.startswith(b'{"action":"prune",') and split(line[:-1])]
            names = [field(body, b'"subject":"') for body in bodies if field(body, b'"kind":"') == b"lifecycle"]
            pruned = ([pruned] + [int(name[:20]) for name in names if re.fullmatch(rb"[0-9]{20}\.jsonl", name)])[-1]
        for first in [first for first in self.seals if pruned < first < begin]:
            raise Wrong(first, f"{first:020}.jsonl", "the segment is gone, and no record says that retention removed it")

    def peaks_at(self, claim):
        """The tree beside a seal."""
        name = f"seals/{claim.segment:020}.peaks"
        lines = self.read(name).split("\n")
        peaks = [unbase64(line) for line in lines[1:-1]]
        is_whole = all(peaks) and len(peaks) == bin(claim.size).count("1") and lines[-1] == ""
        if not is_whole or lines[0] != f"chain {claim.chain.hex()}" or root_of(peaks) != claim.root:
            raise Wrong(claim.last, name, "it is not the tree that the seal signs")
        return peaks

    def verify(self):
        self.next, self.chain, self.first, self.peaks = 1, sha256(b"\x03", self.origin.encode()), 1, []
        begin = min(self.segments, default=1)
        self.check_retention(begin)
        for seal in [claim for claim in self.claims if claim.source == "seal" and claim.last + 1 == begin]:
            self.next, self.chain, self.first, self.peaks = begin, seal.chain, seal.first, self.peaks_at(seal)
        self.borne_out = self.next - 1
        for claim in [claim for claim in self.claims if claim.last < self.next]:
            self.claims.remove(claim)
            if claim.fault:
                raise Wrong(claim.last, claim.file, claim.fault)
        for first, name in self.segments.items():
            self.faults_up_to(first)
            with open(os.path.join(self.folder, "segments", name), "rb") as file:
                for number, text in enumerate(file):
                    self.line(text, name, first if number == 0 else None)
            is_unsealed = first != max(self.segments) and first in self.keys and first not in self.seals
            if is_unsealed and not self.may_lack_of_seal(first, self.next - 1):
                raise Wrong(self.next - 1, f"seals/{first:020}.note", "the segment was ended and has no seal")
        self.faults_up_to(float("inf"))
        for claim in self.claims:
            raise Wrong(self.next, claim.file, f"it covers the records up to {claim.last}, and they end before that")
        if self.seals and not self.read("checkpoint.note"):
            raise Wrong(self.borne_out + 1, "checkpoint.note", "it is missing")
        return {"verdict": "sound", "last": self.next - 1, **self.held}

    def line(self, text, name, first):
        body, chain, seq = split(text[:-1] if text.endswith(b"\n") else b"") or (b"", b"", None)
        leaf = sha256(b"\0", body, b"}")
        if seq != self.next or first not in (None, seq) or sha256(b"\2", self.chain, leaf) != chain:
            raise Wrong(self.next, name, f"the line is torn or changed, or does not belong here; it says that it is record {seq}")
        if seq in self.starts and self.first != seq:
            raise Wrong(seq, name, "a new tree begins with this record: a start accepted damage before it")
        push(self.peaks, seq - self.first, leaf)
        self.chain, self.next = chain, seq + 1
        while self.claims and self.claims[0].last <= seq:
            self.judge(seq, self.claims.pop(0))

    def judge(self, seq, claim):
        if claim.fault and claim.source != "anchor":
            raise Wrong(seq, claim.file, claim.fault)
        if claim.first != self.first or root_of(self.peaks) != claim.root:
            raise Wrong(min(max(self.borne_out + 1, self.first), seq), claim.file, "from here on some record is not what was signed")
        is_seal = claim.source == "seal"
        has_peaks = is_seal and os.path.exists(os.path.join(self.folder, f"seals/{claim.segment:020}.peaks"))
        is_to_come = is_seal and not has_peaks and self.may_lack_of_seal(claim.segment, seq)
        if is_seal and (claim.chain != self.chain or not is_to_come and self.peaks_at(claim) != self.peaks):
            raise Wrong(seq, claim.file, "its chain or its tree is not that of the last record")
        if claim.fault:
            raise Wrong(seq, claim.file, claim.fault)
        self.borne_out = seq
        names = {"anchored": claim.source == "anchor", "vouched": claim.is_vouched, "signed": claim.is_signed}
        self.held.update({name: seq for name, is_so in names.items() if is_so})


def split(line):
    """(body without its closing brace, chain, seq) of a line; None where it is no record."""
    parts = re.fullmatch(rb'(.*),"chain":"([0-9a-f]{64})"\}', line, re.DOTALL)
    seq = field(parts[1], b',"seq":', rb"[0-9]+") if parts else None
    return (parts[1], bytes.fromhex(parts[2].decode()), int(seq)) if seq else None


def field(body, key, pattern=rb'[^"]*'):
    return re.match(rb"(?:%s)?" % pattern, body[body.rfind(key) + len(key) :])[0] if key in body else None


def verify_proof(text, keys):
    proof, record = json.loads(text), text.rstrip().partition(',"record":')[2][:-1]
    claim, path, place = Claim("proof", "checkpoint", parse_note(proof["checkpoint"])), unbase64(proof["path"]), json.loads(record)
    hashes = [path[at : at + 32] for at in range(0, len(path), 32)]
    leaf, is_here = sha256(b"\0", record.encode()), place["origin"] == claim.name.rsplit("/", 1)[-1]
    for is_so, what in (
        (list(proof) == ["doorward_proof", "index", "path", "checkpoint", "record"] and proof["doorward_proof"] == 1, "it is no proof"),
        (any(not signature_fault(claim.note, key) and claim.name == key[0] for key in keys), "its checkpoint is not signed by the key"),
        (is_here and place["seq"] == claim.first + proof["index"], "the record's number or log is not that of its place"),
        (len(path) % 32 == 0 and leads(leaf, proof["index"], claim.size, hashes) == claim.root, "the record is not what was signed"),
    ):
        if not is_so:
            raise ValueError(what)
    return {"verdict": "holds", "seq": place["seq"], "log": claim.name, "signed_at": claim.time}


def main():
    parser = argparse.ArgumentParser(description="Checks Doorward's audit logs and proofs without Doorward.")
    parser.add_argument("verb", choices=["log", "proof"])
    parser.add_argument("path", help="an origin's folder; a proof, or a folder of them")
    parser.add_argument("--root-key", metavar="VKEY")
    for word, value in (("--anchor", "FILE"), ("--key", "VKEY")):
        parser.add_argument(word, action="append", default=[], metavar=value)
    asked = parser.parse_args()
    keys = [parse_key(text) or parser.error(f"{text} is no key") for text in asked.key + ([asked.root_key] if asked.root_key else [])]
    if asked.verb == "proof":
        keys or parser.error("a proof needs --key")
        checks = [lambda file=file: verify_proof(read(file), keys) for file in proofs(asked.path)] or parser.error("there is no proof")
    else:
        root = keys.pop() if asked.root_key else None
        checks = [lambda: Log(os.path.abspath(asked.path), asked.anchor, root, keys).verify()]
    all_said = [answer(check) for check in checks]
    for said in all_said:
        print(json.dumps(said))
    return 0 if all(said["verdict"] in ("sound", "holds") for said in all_said) else 3


def proofs(path):
    """The file, or every `*.proof` below the folder."""
    if os.path.isdir(path):
        return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names if name.endswith(".proof"))
    return [path]


def answer(check):
    try:
        return check()
    except Wrong as wrong:
        return dict(zip(("verdict", "seq", "file", "what"), ("DAMAGED", *wrong.args)))
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        return {"verdict": "does not hold", "what": str(wrong)}


if __name__ == "__main__":
    sys.exit(main())
