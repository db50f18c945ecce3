#!/usr/bin/env python3
"""A relying-party application in Python: the register of a small fleet, and the callbacks that an RPS makes to it.

    python3 rpa.py --config rpa.json init                       make the RA key, print its public half
    python3 rpa.py --config rpa.json add VIN brand=Fiat …       register a device, print its enrolment code
    python3 rpa.py --config rpa.json ban VIN | unban VIN        and tell the RPS at once
    python3 rpa.py --config rpa.json serve                      answer the RPS

      device          RPS                      this program
      register   -->  POST /v1/verify     -->  code known, unused; MAC fits   -->  identity, ticket signed by the RA key
      log in     -->  POST /v1/permit     -->  banned?                        -->  no: a signed statement for the authorities
                      POST /v1/authenticated ->                                    noted
                      GET  /v1/state      -->                                      everything banned, signed, numbered
      (ban)           POST /v1/rpa-events <--  one change, signed, numbered

Nothing but the standard library and `cryptography` (ES256). Written from docs/rpa.md and docs/protocols/ alone. It knows
devices that log in without a PIN, by enrolment code; users, PINs and approval by words are left out.
"""
import argparse
import base64
import contextlib
import datetime
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import re
import secrets
import signal
import sqlite3
import sys
import threading
import time
import unicodedata
import urllib.error
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

SUITE = "BLS12381-SHA256-V1"
FACTORS = 0  # device alone
BODY_LIMIT = 65_536
TICKET_LIFETIME = 3600
CODE_LIFETIME = 14 * 86_400
# Code -> status and meaning: the part of docs/errors.md that is needed here.
PROBLEMS = {
    "MALFORMED": 400, "UNAUTHENTICATED": 401, "EXPIRED": 401, "CLOCK": 401, "FORBIDDEN": 403, "BANNED": 403,
    "NOT_APPROVED": 403, "NOT_FOUND": 404, "METHOD_NOT_ALLOWED": 405, "CONFLICT": 409, "REPLAYED": 409, "TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415, "INTERNAL": 500,
}


class Refused(Exception):
    def __init__(self, code, detail=None, field=None):
        super().__init__(code)
        self.code, self.detail, self.field = code, detail, field


# --- encodings (docs/protocols/encoding.md) ---------------------------------------------------------------------------

def b64u(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64u(text, length, field):
    """Bytes of one canonical base64url text, of an exact length."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise Refused("MALFORMED", "base64url expected", field)
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise Refused("MALFORMED", "base64url expected", field) from None
    if len(data) != length or b64u(data) != text:
        raise Refused("MALFORMED", f"{length} bytes expected", field)
    return data


def nfc(text):
    return unicodedata.normalize("NFC", text).encode()


def tlv(*values):
    """u8 tag, be32 length, value; tags count from 1, what is empty or None is left out."""
    return b"".join(
        bytes([tag]) + len(value).to_bytes(4, "big") + value for tag, value in enumerate(values, 1) if value)


def attributes_tlv(attributes):
    named = sorted((nfc(name), nfc(value)) for name, value in attributes.items())
    if len({name for name, _ in named}) < len(named):
        raise Refused("MALFORMED", "a name stands twice", "attributes")
    return tlv(*(tlv(name, value) for name, value in named))


def canonical(value):
    """RFC 8785 for what stands in these documents: ASCII names, integers, strings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data):
    return hashlib.sha256(data).digest()


# --- compact JWS, ES256 (docs/protocols/statements.md) ----------------------------------------------------------------

def sign_jws(typ, payload, key, kid):
    signed = f"{b64u(canonical({'alg': 'ES256', 'kid': kid, 'typ': typ}))}.{b64u(canonical(payload))}"
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{b64u(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def verify_jws(typ, token, key_of):
    """The payload of a JWS of exactly this typ, by the key of its kid; None for anything else."""
    try:
        head, body, signature = token.split(".")
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
        if header.keys() != {"alg", "kid", "typ"} or header["alg"] != "ES256" or header["typ"] != typ or len(raw) != 64:
            return None
        key = key_of(header["kid"])
        if key is None:
            return None
        der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        key.verify(der, f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
        payload = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return payload if isinstance(payload, dict) and payload.get("iss") == header["kid"] else None
    except (ValueError, AttributeError, InvalidSignature):
        return None


def public_key(compressed):
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unb64u(compressed, 33, "key"))


def private_key(path):
    return serialization.load_pem_private_key(pathlib.Path(path).read_bytes(), password=None)


def compressed(key):
    return b64u(key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint))


# --- the group that this application belongs to (docs/protocols/group.md) ---------------------------------------------

class Group:
    """The first revision, which its hash pins."""

    def __init__(self, path, group_id):
        document = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        document = document[0] if isinstance(document, list) else document
        unsigned = {name: value for name, value in document.items() if name != "signatures"}
        if b64u(sha256(canonical(unsigned))) != group_id:
            sys.exit("the group document is not the one of groupId")
        self.id_text, self.id = group_id, sha256(canonical(unsigned))
        self.document = document

    def request_key(self, name):
        for recipient in self.document["recipients"]:
            if recipient["name"] == name:
                return public_key(recipient["requestKey"])
        return None

    def slot(self, now):
        rule = self.document["slot"]
        return (now - rule["origin"]) // rule["length"]

    def epoch(self, purpose):
        return self.document["purposes"][purpose]["epoch"]


# --- the register ------------------------------------------------------------------------------------------------------

SCHEMA = """
CREATE TABLE IF NOT EXISTS device (
  vin TEXT PRIMARY KEY, attributes TEXT NOT NULL, code_id TEXT UNIQUE NOT NULL, secret BLOB NOT NULL,
  code_expires INTEGER NOT NULL, banned INTEGER NOT NULL DEFAULT 0, seen INTEGER,
  hpke_key TEXT UNIQUE, registration BLOB, leaf INTEGER UNIQUE, id_core TEXT UNIQUE, salt TEXT, issue_date TEXT,
  ticket TEXT, ticket_expires INTEGER);
CREATE TABLE IF NOT EXISTS event (
  number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id_core TEXT NOT NULL, at INTEGER NOT NULL,
  sent INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS used_request (jti TEXT PRIMARY KEY, expires INTEGER NOT NULL);
"""


class Register:
    def __init__(self, path):
        self.path = path
        with self.change() as db:
            db.executescript(SCHEMA)
        os.chmod(path, 0o600)

    @contextlib.contextmanager
    def change(self):
        """One transaction: nobody else writes meanwhile, and all of it is kept or nothing."""
        db = sqlite3.connect(self.path, timeout=10, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            yield db
            if db.in_transaction:
                db.execute("COMMIT")
        finally:
            db.close()


class Application:
    def __init__(self, config):
        self.config = config
        self.key = private_key(config["keyFile"])
        self.kid = config["kid"]
        self.group = Group(config["groupFile"], config["groupId"])
        self.register = Register(config["database"])
        self.routes = {
            ("POST", "/v1/verify"): self.verify,
            ("POST", "/v1/permit"): self.permit,
            ("POST", "/v1/authenticated"): self.authenticated,
            ("GET", "/v1/state"): self.state,
        }

    # The caller: the RPS, by its request JWT, once.
    def check_caller(self, method, path, body, authorization):
        scheme, _, token = (authorization or "").partition(" ")
        request = verify_jws("mpin-request+jwt", token, self.group.request_key) if scheme == "MPIN-Request" else None
        now = int(time.time())
        fields = {"iss": str, "htm": str, "htu": str, "bh": str, "iat": int, "exp": int, "jti": str}
        if request is None or {name: type(value) for name, value in request.items()} != fields:
            raise Refused("UNAUTHENTICATED")
        if (request["htm"], request["htu"], request["bh"]) != (
                method, self.config["publicUrl"].rstrip("/") + path, b64u(sha256(body))):
            raise Refused("UNAUTHENTICATED", "made for another request")
        if not request["iat"] < request["exp"] <= request["iat"] + 60:
            raise Refused("UNAUTHENTICATED", "it lives for too long, or not at all")
        unb64u(request["jti"], 16, "jti")
        if request["iss"] != self.config["rpsName"]:
            raise Refused("FORBIDDEN")
        with self.register.change() as db:
            db.execute("DELETE FROM used_request WHERE expires < ?", (now - 120,))
            if db.execute("INSERT OR IGNORE INTO used_request VALUES (?, ?)",
                          (request["jti"], max(request["exp"], now))).rowcount != 1:
                raise Refused("REPLAYED")
        if not request["iat"] - 60 <= now < request["exp"]:
            raise Refused("CLOCK", f"signed at {request['iat']}, arrived at {now}: "
                          f"{abs(now - request['iat'])} s apart", "iat")

    # 1. May this device have keys?
    def verify(self, body):
        if body.get("kind") != "device":
            raise Refused("NOT_APPROVED", "devices only")
        only(body, {"kind", "attributes", "instance", "hpkeKey", "nonce", "codeId", "mac"})
        attributes, instance = body["attributes"], body["instance"]
        if not isinstance(attributes, dict) or len(attributes) > 32 or not isinstance(instance, str) or not instance or \
                any(not isinstance(value, str) or not value or not name for name, value in attributes.items()):
            raise Refused("MALFORMED")
        hpke_key, nonce = unb64u(body["hpkeKey"], 32, "hpkeKey"), unb64u(body["nonce"], 32, "nonce")
        unb64u(body["codeId"], 16, "codeId")
        mac = unb64u(body["mac"], 32, "mac")
        claimed = tlv(self.group.id, attributes_tlv(attributes), nfc(instance), hpke_key, nonce)
        now = int(time.time())
        with self.register.change() as db:
            device = db.execute("SELECT * FROM device WHERE code_id = ?", (body["codeId"],)).fetchone()
            if device is None or not hmac.compare_digest(hmac.digest(device["secret"], claimed, "sha256"), mac):
                raise Refused("NOT_APPROVED", "the enrolment code does not fit this registration")
            if device["vin"] != unicodedata.normalize("NFC", instance) or \
                    attributes_tlv(json.loads(device["attributes"])) != attributes_tlv(attributes):
                raise Refused("NOT_APPROVED", "the enrolment code is for another device")
            if device["banned"]:
                raise Refused("BANNED", field="instance")
            if device["hpke_key"] is None:
                if device["code_expires"] <= now:
                    raise Refused("EXPIRED", "the enrolment code has run out")
                device = self.approve(db, device, attributes, hpke_key, canonical(body))
            elif device["hpke_key"] != body["hpkeKey"] or device["registration"] != canonical(body):
                raise Refused("CONFLICT", "the enrolment code was used by another registration")
            if (device["ticket_expires"] or 0) < now + 120:
                ticket = self.ticket(device, hpke_key, now)
                db.execute("UPDATE device SET ticket = ?, ticket_expires = ? WHERE vin = ?",
                           (ticket, now + TICKET_LIFETIME, device["vin"]))
            else:
                ticket = device["ticket"]
        return {"state": "approved", "idCore": device["id_core"], "leaf": device["leaf"], "generation": 0,
                "factors": FACTORS, "issueDate": device["issue_date"], "salt": device["salt"], "ticket": [ticket]}

    def approve(self, db, device, attributes, hpke_key, registration):
        """A leaf is never given out twice; the identity binds the enrolment key, so nobody can swap it."""
        leaf = db.execute("SELECT coalesce(max(leaf), 0) + 1 FROM device").fetchone()[0]
        salt, date = secrets.token_bytes(16), datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        digest = sha256(tlv(self.group.id, attributes_tlv(attributes), nfc(device["vin"]), date.encode(),
                            sha256(hpke_key), salt))
        id_core = b64u(leaf.to_bytes(4, "big") + (0).to_bytes(2, "big") + bytes([FACTORS]) + digest)
        db.execute("UPDATE device SET hpke_key = ?, registration = ?, leaf = ?, id_core = ?, salt = ?, issue_date = ? "
                   "WHERE vin = ?", (b64u(hpke_key), registration, leaf, id_core, b64u(salt), date, device["vin"]))
        return db.execute("SELECT * FROM device WHERE vin = ?", (device["vin"],)).fetchone()

    def ticket(self, device, hpke_key, now):
        return self.sign("mpin-ticket+jwt", {
            "keyEpochs": {"device": self.group.epoch("device")}, "idCore": device["id_core"], "purposes": ["device"],
            "hpkeKey": b64u(hpke_key), "hpkeKeyHash": b64u(sha256(hpke_key)), "iat": now, "exp": now + TICKET_LIFETIME,
            "jti": b64u(secrets.token_bytes(16))})

    # 2. Is it banned?
    def permit(self, body):
        only(body, {"idCore", "slot"}, {"userCore"})
        unb64u(body["idCore"], 39, "idCore")
        now = int(time.time())
        current, slot = self.group.slot(now), body["slot"]
        with self.register.change() as db:
            device = db.execute("SELECT * FROM device WHERE id_core = ?", (body["idCore"],)).fetchone()
        if device is None or "userCore" in body:
            raise Refused("NOT_FOUND")
        if device["banned"]:
            raise Refused("BANNED", field="idCore")
        if type(slot) is not int or not current - 1 <= slot <= current + self.group.document["policy"]["lead"]:
            raise Refused("EXPIRED", "the slot is not one that permits are made for now", "slot")
        statement = self.sign("mpin-permit+jwt", {
            "keyEpoch": self.group.epoch("permit"), "idCore": body["idCore"], "slot": slot, "banned": False, "iat": now,
            "exp": now + 60, "jti": b64u(secrets.token_bytes(16))})
        return {"statement": statement, "attributes": json.loads(device["attributes"]), "instance": device["vin"]}

    # 3. What happened, the oldest first; told until it was answered, so the same may come again.
    def authenticated(self, body):
        only(body, {"notices"})
        notices = body["notices"]
        if not isinstance(notices, list) or not 1 <= len(notices) <= 32 or \
                any(not isinstance(notice, dict) for notice in notices):
            raise Refused("MALFORMED")
        for notice in notices:
            only(notice, {"id", "event", "at", "idCore", "amr", "audience", "slot"}, {"userCore", "pinGen"})
            unb64u(notice["id"], 16, "id")
            unb64u(notice["idCore"], 39, "idCore")
            if type(notice["at"]) is not int:
                raise Refused("MALFORMED")
        now, unknown = int(time.time()), []
        with self.register.change() as db:
            for notice in notices:
                if db.execute("UPDATE device SET seen = max(coalesce(seen, 0), ?) WHERE id_core = ?",
                              (min(notice["at"], now), notice["idCore"])).rowcount != 1:
                    unknown.append(notice["id"])
        return {"unknown": unknown}

    # What lets an RPS catch up.
    def state(self, _body):
        with self.register.change() as db:
            number = db.execute("SELECT coalesce(max(number), 0) FROM event").fetchone()[0]
            banned = db.execute("SELECT id_core FROM device WHERE banned = 1 AND id_core IS NOT NULL").fetchall()
        return {"state": self.sign("mpin-state+jwt", {
            "number": number, "iat": int(time.time()), "banned": [{"idCore": row["id_core"]} for row in banned],
            "revoked": []})}

    # The operator's side.
    def add(self, vin, attributes):
        secret = secrets.token_bytes(16)
        code = base64.b32encode(secret + self.group.id + sha256(secret + self.group.id)[:2]).decode().rstrip("=")
        code_id = b64u(sha256(b"MILAGRO-TS-V1-CODE-ID" + secret)[:16])
        with self.register.change() as db:
            db.execute("INSERT INTO device (vin, attributes, code_id, secret, code_expires) VALUES (?, ?, ?, ?, ?)",
                       (unicodedata.normalize("NFC", vin), json.dumps(attributes), code_id, secret,
                        int(time.time()) + CODE_LIFETIME))
        return "-".join(code[i:i + 4] for i in range(0, len(code), 4))

    def ban(self, vin, banned):
        """The ban counts from here on; the RPS hears of it at once, and again until it has it."""
        with self.register.change() as db:
            device = db.execute("SELECT * FROM device WHERE vin = ?", (vin,)).fetchone()
            if device is None:
                sys.exit(f"no device {vin}")
            db.execute("UPDATE device SET banned = ? WHERE vin = ?", (int(banned), vin))
            if device["id_core"] is not None and device["banned"] != int(banned):
                db.execute("INSERT INTO event (kind, id_core, at) VALUES (?, ?, ?)",
                           ("ban" if banned else "unban", device["id_core"], int(time.time())))
        self.push()

    def push(self):
        with self.register.change() as db:
            waiting = db.execute("SELECT * FROM event WHERE sent = 0 ORDER BY number").fetchall()
        for event in waiting:
            statement = self.sign("mpin-event+jwt", {
                "number": event["number"], "iat": event["at"], "kind": event["kind"], "idCore": event["id_core"]})
            request = urllib.request.Request(
                self.config["rpsUrl"].rstrip("/") + "/v1/rpa-events", canonical({"event": statement}),
                {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                json.load(answer)
            with self.register.change() as db:
                db.execute("UPDATE event SET sent = 1 WHERE number = ?", (event["number"],))

    def push_until_heard(self, stopped):
        """Events that a ban command could not bring to the RPS; an RPS that was away asks for the state besides."""
        while not stopped.wait(5):
            try:
                self.push()
            except OSError as error:
                print(f"events wait: {type(error).__name__}", file=sys.stderr)

    def sign(self, typ, payload):
        return sign_jws(typ, {"suite": SUITE, "groupId": self.group.id_text, **payload}, self.key, self.kid)


def only(body, needed, optional=frozenset()):
    if not needed <= body.keys() <= needed | optional:
        raise Refused("MALFORMED", "fields are missing, or are too many")


def unique(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise Refused("MALFORMED", "a key stands twice")
    return dict(pairs)


# --- HTTP --------------------------------------------------------------------------------------------------------------

def handler(application):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 15

        def answer(self):
            try:
                self.reply(200, "application/json", self.called())
            except Refused as refused:
                problem = {"type": f"urn:milagro-ts:{refused.code}", "title": refused.code,
                           "status": PROBLEMS[refused.code], "code": refused.code}
                problem.update({name: value for name, value in
                                (("detail", refused.detail), ("field", refused.field)) if value is not None})
                self.reply(problem["status"], "application/problem+json", problem)
            except Exception as error:  # the peer reads nothing of it
                print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
                self.reply(500, "application/problem+json", {
                    "type": "urn:milagro-ts:INTERNAL", "title": "INTERNAL", "status": 500, "code": "INTERNAL"})

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def called(self):
            if not any(path == self.path for _, path in application.routes):
                raise Refused("NOT_FOUND")
            route = application.routes.get((self.command, self.path))
            if route is None:
                raise Refused("METHOD_NOT_ALLOWED")
            length = self.headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > BODY_LIMIT:
                raise Refused("TOO_LARGE")
            data = self.rfile.read(int(length))
            application.check_caller(self.command, self.path, data, self.headers.get("authorization"))
            if self.command == "GET":
                return route(None)
            if self.headers.get_content_type() != "application/json":
                raise Refused("UNSUPPORTED_MEDIA_TYPE")
            try:
                body = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
            except (ValueError, RecursionError):
                raise Refused("MALFORMED", "JSON expected") from None
            if not isinstance(body, dict):
                raise Refused("MALFORMED")
            return route(body)

        def reply(self, status, kind, value):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            if status != 200:  # perhaps its body was not read
                self.send_header("connection", "close")
                self.close_connection = True
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments):
            pass

    return Handler


def serve(application):
    listen = application.config["listen"]
    server = http.server.ThreadingHTTPServer((listen["host"], listen["port"]), handler(application))
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    pushing = threading.Thread(target=application.push_until_heard, args=(stopped,), daemon=True)
    pushing.start()
    print(json.dumps({"event": "ready", "port": server.server_port}), flush=True)
    server.serve_forever()
    stopped.set()


def make_key(path):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption())
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    return key


def main():
    parser = argparse.ArgumentParser(description="a relying-party application")
    parser.add_argument("--config", required=True)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("init")
    verbs.add_parser("serve")
    add = verbs.add_parser("add")
    add.add_argument("vin")
    add.add_argument("attributes", nargs="*")
    for name in ("ban", "unban"):
        verbs.add_parser(name).add_argument("vin")
    asked = parser.parse_args()
    config = json.loads(pathlib.Path(asked.config).read_text(encoding="utf-8"))
    if asked.verb == "init":
        print(json.dumps({"kid": config["kid"], "key": compressed(make_key(config["keyFile"]))}))
        return
    application = Application(config)
    if asked.verb == "serve":
        serve(application)
    elif asked.verb == "add":
        print(application.add(asked.vin, dict(pair.split("=", 1) for pair in asked.attributes)))
    else:
        try:
            application.ban(asked.vin, asked.verb == "ban")
        except (urllib.error.URLError, OSError) as error:
            sys.exit(f"{asked.verb} is in force here; the RPS hears of it from the serving process ({error})")


if __name__ == "__main__":
    main()
