//! Heads with one fault that is certain, and framing of any kind.

use super::bodies::{Case, ask};
use super::random::Random;
use crate::support::client::MODERN;
use crate::support::{Ask, Client};

/// What may end without a word.
pub const ANOTHER_PROTOCOL: &str = "another protocol";

/// A call that would be made.
fn sound(random: &mut Random) -> Ask {
    let text = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"tools/call\",\"params\":{{\"name\":\"up__echo\",\"arguments\":{{}},\"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"{MODERN}\",\"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}",
        random.below(1 << 30)
    );
    ask(text)
}

/// The next head that says otherwise than its body, or what is not let in.
pub fn next(random: &mut Random) -> Case {
    let sound = sound(random);
    let (fault, ask) = match random.below(14) {
        0 => (
            "another name",
            sound.having(
                "Mcp-Name",
                random.pick(&["up__pay", "up__save", "", "UP__ECHO", "=?base64?dXBfX3BheQ==?=", "=?base64?!!?=", "=?base64?dXBfX2VjaG8?="]),
            ),
        ),
        1 => {
            ("another method", sound.having("Mcp-Method", random.pick(&["tools/list", "ping", "", "TOOLS/CALL", "tools/call, tools/call"])))
        }
        2 => (
            "another revision",
            sound.having("MCP-Protocol-Version", random.pick(&["2025-11-25", "2024-11-05", "1999-01-01", "2099-01-01", "", "x"])),
        ),
        3 => ("a header less", sound.without(random.pick(&["Mcp-Name", "Mcp-Method", "MCP-Protocol-Version"]))),
        4 => {
            let (name, value) = [("Mcp-Name", "up__echo"), ("Mcp-Method", "tools/call"), ("MCP-Protocol-Version", MODERN)][random.below(3)];
            ("a header twice", sound.with(name, value))
        }
        5 => (
            "parameters that cannot be read",
            sound.with("Mcp-Param-A", random.pick(&["=?base64?!?=", "=?base64?/w==?=", "=?base64?gA==?="])),
        ),
        6 => ("parameters twice", sound.with("Mcp-Param-A", "1").with("mcp-param-a", "1")),
        7 => (
            "another type",
            sound.having(
                "Content-Type",
                random.pick(&[
                    "text/plain",
                    "application/xml",
                    "",
                    "multipart/form-data; boundary=x",
                    "application/json-patch+json",
                    "json",
                ]),
            ),
        ),
        8 => ("another coding", sound.with("Content-Encoding", random.pick(&["gzip", "br", "identity, gzip", "x", "deflate"]))),
        9 => (
            "wants something else",
            sound.having("Accept", random.pick(&["text/html", "image/*", "application/xml", "text/event-stream", "x"])),
        ),
        10 => (
            "from elsewhere",
            sound.with(
                "Origin",
                random.pick(&["https://evil.example", "null", "http://localhost.evil.example", "file://", "http://127.0.0.1.evil.example"]),
            ),
        ),
        11 => (
            "to elsewhere",
            sound.with("Host", random.pick(&["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[::2]", "0x7f.1"])),
        ),
        12 => {
            let number = random.size(97, 99);
            ("too many headers", (0..number - 8).fold(sound, |ask, at| ask.with(&format!("X-{at}"), "1")))
        }
        _ => (
            "a wrong key",
            sound.with(
                "Authorization",
                random.pick(&[
                    "Bearer dw_nobody_AAAA",
                    "Bearer ",
                    "Basic eDp4",
                    "dw_demo_1",
                    "Bearer \u{7f}",
                    "Bearer eyJhbGciOiJub25lIn0.e30.",
                ]),
            ),
        ),
    };
    Case { fault, ask }
}

/// Any bytes that a connection may begin with. Where they hold a whole request, its body is none.
pub fn framing(random: &mut Random, client: &Client) -> (&'static str, Vec<u8>) {
    let head = String::from_utf8(client.signed(&ask("{")).on_wire(false)).unwrap();
    let head = head.strip_suffix('{').unwrap();
    if random.rarely(2) { lengths(random, head) } else { lines(random, head) }
}

/// Where a body ends, said wrongly.
fn lengths(random: &mut Random, head: &str) -> (&'static str, Vec<u8>) {
    let with = |line: &str| head.replacen("Content-Length: 1\r\n", line, 1).into_bytes();
    let chunked = |body: &str| [with("Transfer-Encoding: chunked\r\n"), body.as_bytes().to_vec()].concat();
    match random.below(7) {
        0 => (
            "a length that is none",
            with(&format!(
                "Content-Length: {}\r\n",
                random.pick(&["-1", "+1", "1 1", "0x1", "1,1", "99999999999999999999", "", "1;", "1.0"])
            )),
        ),
        1 => ("two lengths", with(&format!("Content-Length: 1\r\nContent-Length: {}\r\n", random.pick(&["2", "0", "1, 2"])))),
        2 => (
            "a coding that is none",
            with(&format!(
                "Transfer-Encoding: {}\r\n",
                random.pick(&["chunke", "gzip", "chunked, gzip", "chunked, identity", "\u{b}chunked", "identity"])
            )),
        ),
        3 => ("length and coding", [with("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"), b"1\r\n{\r\n0\r\n\r\n".to_vec()].concat()),
        4 => (
            "chunks that are none",
            chunked(random.pick(&[
                "x\r\n{\r\n0\r\n\r\n",
                "1\r\n{0\r\n\r\n",
                "fffffffffffffffff\r\n",
                "1;\u{0}=1\r\n{\r\n0\r\n\r\n",
                "-1\r\n{\r\n",
                "1\n{\n0\n\n",
                " 1\r\n{\r\n0\r\n\r\n",
            ])),
        ),
        5 => ("chunks that end early", chunked(random.pick(&["", "1", "5\r\n{", "1\r\n{\r\n", "1\r\n{\r\n0\r\n"]))),
        _ => ("a body that ends early", [with("Content-Length: 500\r\n"), b"{".to_vec()].concat()),
    }
}

/// Lines of a head that are none, or no head at all.
fn lines(random: &mut Random, head: &str) -> (&'static str, Vec<u8>) {
    let with = |line: &str| head.replacen("Content-Length: 1\r\n", line, 1).into_bytes();
    match random.below(9) {
        0 => {
            let length = random.size(1, 2_000);
            ("noise", random.bytes(length))
        }
        1 => (
            "no request line",
            format!(
                "{}\r\n\r\n",
                random.pick(&[
                    "GET",
                    "/",
                    "POST /mcp",
                    "POST  /mcp HTTP/1.1",
                    "POST /mcp HTTP/9.9",
                    "POST /mcp HTTX/1.1",
                    " POST /mcp HTTP/1.1",
                    "PO\tST /mcp HTTP/1.1",
                    "POST /m\u{0}cp HTTP/1.1"
                ])
            )
            .into_bytes(),
        ),
        2 => {
            let bad = random.pick(&["X Y: 1", "X\u{0}: 1", ": 1", "X", "X: a\u{0}b", " folded: 1", "X\u{7f}: 1", "X : 1"]);
            ("a header that is none", with(&format!("{bad}\r\nContent-Length: 1\r\n")))
        }
        3 => (
            "no host, or two",
            [
                head.replacen("Host: localhost\r\n", random.pick(&["", "Host: localhost\r\nHost: localhost\r\n"]), 1).into_bytes(),
                b"{".to_vec(),
            ]
            .concat(),
        ),
        4 => ("a long target", format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(random.size(1, 70_000))).into_bytes()),
        5 => {
            let number = random.size(101, 4_000);
            (
                "headers without end",
                format!(
                    "POST /mcp HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
                    (0..number).map(|at| format!("X-{at}: 1\r\n")).collect::<String>()
                )
                .into_bytes(),
            )
        }
        6 => (
            "a large header",
            format!("POST /mcp HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(random.size(33_000, 90_000))).into_bytes(),
        ),
        7 => {
            let other: &[&[u8]] = &[
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"SSH-2.0-x\r\n",
                b"\x05\x01\x00",
                b"\0\0\0\x12\x04",
            ];
            let length = random.size(0, 200);
            (ANOTHER_PROTOCOL, [random.pick(other).to_vec(), random.bytes(length)].concat())
        }
        _ => {
            let method = random.pick(&["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"]);
            let path = random.pick(&["/mcp", "/", "*", "/mcp/../admin", "/MCP", "//mcp", "/mcp?x", "http://evil.example/mcp", "/mcp%00"]);
            ("another method or path", format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes())
        }
    }
}
