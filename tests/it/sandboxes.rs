//! Tool servers on pipes are guests: what one cannot reach, use up or say, though it tries.
//!
//! Where this kernel has no Landlock, what is not enforced is asserted too: that it is possible, and that the gateway says so.

use std::os::unix::fs::PermissionsExt;

use doorward::catalog::sandbox::Level;
use doorward::sandbox::{Enforced, available};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::hostile::{attempt, program, site, with};
use crate::support::pipe::code;
use crate::support::{Site, until};

/// Refused by a kernel whose Landlock has this ABI or a newer one; else possible, and told as not enforced.
fn kept_out(enforced: &Enforced, from: u8, what: &str, outcome: &str) {
    let refused = outcome.starts_with("refused");
    assert_eq!(refused, enforced.landlock >= from, "{what}: {outcome}, with {enforced}");
    if !refused {
        assert!(!enforced.lacks.is_empty(), "{enforced}");
        eprintln!("not enforced here: {what} ({enforced})");
    }
}

#[tokio::test]
async fn a_server_reaches_what_it_is_granted_and_nothing_of_ours() {
    let site = site(&json!({ "write": ["work"] }));
    let (gateway, enforced) = (site.serve().await, available());
    assert_eq!(attempt(&gateway, "read", "work/own").await, "what is its own");
    assert_eq!(attempt(&gateway, "write", "work/new").await, "done");
    assert_eq!(attempt(&gateway, "remove", "work/new").await, "done");

    let home = site.path("");
    let at = |path: &str| home.join(path).display().to_string();
    for (what, path) in [
        ("list", "var"),
        ("list", "var/audit"),
        ("read", "var/state.db"),
        ("write", "var/planted"),
        ("read", "policies/policy.csv"),
        ("write", "policies/policy.csv"),
        ("read", "tool-manifests/up.yaml"),
        ("write", "tool-manifests/up.lock.json"),
        ("read", "doorward.yaml"),
        ("read", "beside"),
        ("write", "planted"),
        ("list", ""),
        ("link", "var"),
    ] {
        kept_out(&enforced, 1, &format!("{what} {path}"), &attempt(&gateway, what, &at(path)).await);
    }
    let planted = format!("{}/planted-{}", std::env::temp_dir().display(), gateway.process());
    kept_out(&enforced, 1, "a file among temporary ones", &attempt(&gateway, "write", &planted).await);
    let _gone = std::fs::remove_file(planted);
}

#[tokio::test]
async fn a_server_has_temporary_files_of_its_own_which_end_with_it() {
    let site = site(&json!("default"));
    let gateway = site.serve().await;
    let environment = attempt(&gateway, "environment", "").await;
    let folder = environment.split("(\"TMPDIR\", \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_eq!(attempt(&gateway, "write", &format!("{folder}/file")).await, "done");
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);

    gateway.stop().await;

    assert!(!std::path::Path::new(&folder).exists());
}

#[tokio::test]
async fn a_server_reaches_neither_the_admin_socket_nor_the_gateway_itself() {
    // With every socket that can be granted, it is the gateway that refuses it.
    for (sandbox, is_met) in [(json!("default"), false), (json!({ "network": "any", "unix_sockets": true }), true)] {
        let site = site(&sandbox);
        let (mut gateway, enforced) = (site.serve().await, available());
        let socket = site.path("var/doorward.sock").display().to_string();
        let outcome = attempt(&gateway, "unix", &socket).await;
        if is_met && enforced.landlock < 9 {
            assert_eq!(outcome, "done");
            gateway.says("an admin connection was refused").await;
        } else if !is_met {
            assert!(outcome.starts_with("refused"), "{outcome}");
        }
        let process = gateway.process().to_string();
        kept_out(&enforced, 6, "a signal to the gateway", &attempt(&gateway, "signal", &process).await);
        for file in ["environ", "mem"] {
            let outcome = attempt(&gateway, "read", &format!("/proc/{process}/{file}")).await;
            kept_out(&enforced, 1, &format!("the gateway's {file}"), if outcome.starts_with("refused") { "refused" } else { "done" });
        }
    }
}

#[tokio::test]
async fn a_server_has_the_network_that_it_is_granted() {
    let (one, other) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let [granted, not] = [&one, &other].map(|listener| listener.local_addr().unwrap());
    let (none, ports, any) = (json!("default"), json!({ "network": { "connect": [granted.port()] } }), json!({ "network": "any" }));
    let enforced = available();
    for (sandbox, expected) in [(&none, [false; 4]), (&ports, [true, false, false, false]), (&any, [true; 4])] {
        let site = site(sandbox);
        let gateway = site.serve().await;
        let tries = [
            ("tcp", granted.to_string()),
            ("tcp", not.to_string()),
            ("udp", "127.0.0.1:0".to_owned()),
            ("listen", "127.0.0.1:0".to_owned()),
        ];
        for ((what, at), is_granted) in tries.into_iter().zip(expected) {
            let outcome = attempt(&gateway, what, &at).await;
            let by_ports = *sandbox == ports && what != "udp" && !is_granted;
            if by_ports {
                kept_out(&enforced, 4, &format!("{what} {at}"), &outcome);
            } else {
                assert_eq!(outcome == "done", is_granted, "{sandbox}: {what} {at}: {outcome}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_has_no_new_privileges_few_powers_and_a_filter() {
    let site = site(&json!("default"));
    let gateway = site.serve().await;
    let status = attempt(&gateway, "read", "/proc/self/status").await;
    let of = |field: &str| status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
    assert_eq!((of("NoNewPrivs:").as_str(), of("Seccomp:").as_str()), ("1", "2"), "{status}");
    // Files of others, and low ports; nothing that changes the machine.
    let bounding = u64::from_str_radix(&of("CapBnd:"), 16).unwrap();
    let is_root = std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0).unwrap();
    assert!(!is_root || bounding & !0b100_0001_1011 == 0, "{bounding:x}");
    let limits = attempt(&gateway, "read", "/proc/self/limits").await;
    for (name, most) in
        [("Max core file size", "0"), ("Max open files", "1024"), ("Max data size", "2147483648"), ("Max cpu time", "36000")]
    {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().next(), Some(most), "{line}");
    }
}

#[tokio::test]
async fn a_server_that_takes_too_much_memory_is_refused_it_or_ended() {
    let site = site(&json!({ "memory_mb": 128 }));
    let gateway = site.serve().await;
    match attempt(&gateway, "memory", "4096").await.as_str() {
        "upstream_disconnected" => {}
        taken => assert!(taken.parse::<u32>().unwrap() < 128, "{taken} MiB"),
    }
    assert_eq!(attempt(&gateway, "open", "5000").await.parse::<u32>().unwrap() / 100, 10, "about 1024 files");
}

#[tokio::test]
async fn a_server_that_multiplies_is_ended_with_all_its_processes_and_its_call_is_told_the_truth() {
    let site = site(&json!({ "processes": 20 }));
    let mut gateway = site.serve().await;
    // The kernel bounds the processes of a user together, and not those of root: it is the look at the family that holds for both.
    let answer = gateway.client().call("up__attempt", json!({ "what": "multiply", "at": "100000" })).await;
    assert_eq!(answer.code(), "upstream_disconnected");
    assert_eq!(answer.result()["_meta"]["dev.doorward/error"]["effect"], "unknown");
    gateway.says("it has more than 20 processes and threads").await;
    // It is started anew, and the next call is fine.
    assert_eq!(attempt(&gateway, "list", "/proc").await, "done");
    gateway.stop().await;
    until("the end of its children", async || (!running("hostile_server child")).then_some(())).await;
}

/// Whether a process with this end of its command line still runs.
fn running(words: &str) -> bool {
    let of = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| of(entry).trim().ends_with(words))
}

#[tokio::test]
async fn what_a_server_says_on_standard_error_is_bounded_and_without_secrets() {
    let env = json!({ "env": { "KEY": { "from_env": "UP_KEY" } } });
    let site = with(&env).env("UP_KEY", "correct-horse").env("OF_THE_GATEWAY", "battery-staple");
    let gateway = site.serve().await;
    let environment = attempt(&gateway, "environment", "").await;
    assert!(environment.contains("correct-horse") && !environment.contains("battery-staple") && !environment.contains("OF_THE_GATEWAY"));
    for secret in ["correct-horse", site.key("demo")] {
        assert_eq!(attempt(&gateway, "secret", secret).await, "done");
    }
    assert_eq!(attempt(&gateway, "babble", "2000").await, "done");
    let (_, said, _) = gateway.stop().await;
    assert!(said.contains("the key is [secret]"), "{said}");
    assert!(!said.contains("correct-horse") && !said.contains(site.key("demo")) && !said.contains(&site.key("demo")[..16]));
    assert!(said.len() < 2_000_000, "{} bytes of 32 MB", said.len());
}

#[tokio::test]
async fn each_start_is_recorded_with_the_program_its_hash_and_what_is_enforced() {
    let site = site(&json!({ "write": ["work"], "network": { "connect": [443] } }));
    let gateway = site.serve().await;
    let record = site.recorded("lifecycle", "action", "server_start").await;
    let hash = doorward::seal::hex(&doorward::seal::sha256(&std::fs::read(program()).unwrap()));
    assert_eq!((&record["upstream"], &record["subject"], &record["sha256"]), (&json!("up"), &json!(program()), &json!(hash)));
    let note = record["note"].as_str().unwrap();
    assert!(note.starts_with(&format!("sandbox {}; network TCP to [443]", available())), "{note}");

    assert_eq!(attempt(&gateway, "list", "/proc").await, "done");
    let status = site.run(&["status"]).await;
    assert!(status.code == 0 && status.out.contains(&program()) && status.out.contains(&available().to_string()), "{status:?}");
    let check = site.run(&["--json", "check"]).await.json();
    assert_eq!(check["sandbox"]["level"], json!(available().level));
    assert_eq!(site.run(&["audit", "verify"]).await.code, 0);
    gateway.stop().await;
    assert_eq!(site.run(&["status"]).await.code, 1);
}

#[tokio::test]
async fn a_grant_of_what_no_server_may_reach_is_refused_with_its_place() {
    for (stdio, place, what) in [
        ("sandbox: { write: [work, .] }", ":4:51: `sandbox.write.1`", "holds the state folder"),
        ("sandbox: { read: [var/audit] }", ":4:44: `sandbox.read.0`", "lies in the state folder"),
        ("sandbox: { read: [policies] }", ":4:44: `sandbox.read.0`", "the policy"),
        ("sandbox: { read: [tool-manifests/up.yaml] }", ":4:44: `sandbox.read.0`", "the manifests"),
        ("sandbox: { read: [work/../doorward.yaml] }", ":4:44: `sandbox.read.0`", "the configuration"),
        ("args: [--root, .]", ":4:41: `args.1`", "holds the state folder"),
        ("cwd: ..", ":4:31: `cwd`", "holds the state folder"),
    ] {
        let site = site(&json!("default"));
        let manifest = format!("transport:\n  stdio:\n    {{ command: /bin/cat, {stdio} }}\ntools: {{}}\n");
        let site = site.manifest("up", &manifest);
        for verb in [&["check"][..], &["tools", "list"], &["serve"]] {
            let done = site.run(verb).await;
            assert_eq!(done.code, 2, "{stdio} {verb:?}: {done:?}");
            assert!(done.err.contains(&format!("up.yaml{place}")) && done.err.contains(what), "{stdio} {verb:?}: {}", done.err);
        }
    }
    let site = site(&json!({ "arguments": "ignore" }));
    let manifest = "transport: { stdio: { command: /bin/cat, args: [.], sandbox: { arguments: ignore } } }\ntools: {}\n";
    assert_eq!(site.manifest("up", manifest).run(&["check"]).await.code, 0, "it is said to be no path");
}

#[tokio::test]
async fn a_folder_that_is_granted_and_not_there_is_told() {
    let site = site(&json!({ "write": ["not-there"] }));
    let mut gateway = site.serve().await;
    gateway.says("not-there` is granted, and cannot be opened").await;
    std::fs::create_dir(site.path("not-there")).unwrap();
    assert_eq!(attempt(&gateway, "write", "not-there/file").await, "done");
}

#[tokio::test]
async fn a_minimum_that_cannot_be_had_keeps_a_server_from_starting() {
    // This machine's Landlock knows no ports where its ABI is below 4, and without it there are no files to be kept from either.
    let (site, enforced) = (site(&json!({ "minimum": "full" })), available());
    let mut gateway = site.serve().await;
    if enforced.level == Level::Full {
        assert_eq!(attempt(&gateway, "list", "/proc").await, "done");
    } else {
        gateway.says("the manifest asks for `sandbox: { minimum: full }`").await;
        assert_eq!(attempt(&gateway, "list", "/proc").await, "upstream_unavailable");
    }
}

#[tokio::test]
async fn principals_have_processes_of_their_own_where_the_manifest_says_so() {
    let site = with(&json!({ "isolation": "principal", "max_processes": 2 }));
    let gateway = site.serve().await;
    let mut own = Vec::new();
    for client in [gateway.client(), gateway.other(), gateway.client()] {
        let answer = client.call("up__attempt", json!({ "what": "environment" })).await;
        let text = answer.result()["content"][0]["text"].as_str().unwrap().to_owned();
        own.push(text.split("(\"TMPDIR\", \"").nth(1).unwrap().split('"').next().unwrap().to_owned());
    }
    assert!(own[0] != own[1] && own[0] == own[2], "{own:?}");
    // The main one, which no call goes to, and one for each.
    let starts = async || {
        let starts = site.of_kind("lifecycle").into_iter().filter(|record| record["action"] == "server_start").count();
        (starts == 3).then_some(())
    };
    until("three starts", starts).await;
    // A crash of one is none of the others' business, and the next call of its own has a new one.
    std::fs::write(site.path("work/own"), "").unwrap();
    let crashed = gateway.client().call("up__attempt", json!({ "what": "no such attempt" })).await;
    assert_eq!(crashed.code(), "upstream_disconnected");
    let answer = gateway.other().call("up__attempt", json!({ "what": "list", "at": "/proc" })).await;
    assert_eq!(answer.result()["content"][0]["text"], "done");
    until("a new process", async || (attempt(&gateway, "list", "/proc").await == "done").then_some(())).await;
}

#[tokio::test]
async fn a_wrapped_server_keeps_its_folder_and_the_network_and_not_the_rest() {
    let site = Site::empty();
    std::fs::create_dir_all(site.path("work/home/.ssh")).unwrap();
    site.write("work/home/.ssh/key", "private");
    std::fs::create_dir_all(site.path("work/here")).unwrap();
    let mut command = site.command(&["wrap", "up", "--state", "../state", "--", &program()]);
    command.current_dir(site.path("work/here")).env("HOME", site.path("work/home"));
    let mut pipe = crate::support::pipe::Pipe::start(command);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = |path: &str| site.path(path).display().to_string();
    let enforced = available();
    for (what, place, is_granted) in [
        ("write", at("work/here/file"), true),
        ("tcp", listener.local_addr().unwrap().to_string(), true),
        ("read", at("work/home/.ssh/key"), false),
        ("list", at("work/state"), false),
    ] {
        let answer = pipe.call("up__attempt", json!({ "what": what, "at": place })).await;
        assert_eq!(code(&answer), "ok");
        let outcome = answer["result"]["content"][0]["text"].as_str().unwrap().to_owned();
        if is_granted {
            assert_eq!(outcome, "done", "{what} {place}");
        } else {
            kept_out(&enforced, 1, &format!("{what} {place}"), &outcome);
        }
    }
    let (status, ..) = pipe.leave().await;
    assert!(status.success());
}
