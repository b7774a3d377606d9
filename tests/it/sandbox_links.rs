//! A tool server that puts links where it may write is granted no more by its next start.

use doorward::sandbox::available;
use serde_json::{Value, json};

use crate::support::hostile::{self, attempt};
use crate::support::pipe::{Pipe, code};
use crate::support::{Site, until};

/// A folder with a secret in it, and one to work in, which has `notes` in it.
fn prepared(site: &Site) {
    for folder in ["secret", "work/notes"] {
        std::fs::create_dir_all(site.path(folder)).unwrap();
    }
    site.write("secret/key", "private");
}

async fn piped(pipe: &mut Pipe, what: &str, at: &str) -> String {
    let answer = pipe.call("up__attempt", json!({ "what": what, "at": at })).await;
    assert_eq!(code(&answer), "ok", "{answer}");
    answer["result"]["content"][0]["text"].as_str().unwrap().to_owned()
}

/// The notes of its starts.
fn starts(site: &Site) -> Vec<String> {
    let starts = site.of_kind("lifecycle").into_iter().filter(|record| record["action"] == "server_start");
    starts.map(|record| record["note"].as_str().unwrap().to_owned()).collect()
}

/// Where there is no Landlock, files are open anyway, and said to be.
fn assert_refused(outcome: &str) {
    assert!(outcome.starts_with("refused") || available().landlock == 0, "{outcome}");
}

#[tokio::test]
async fn a_link_that_a_server_put_where_it_may_write_keeps_its_next_process_from_starting() {
    for more in [json!({ "read": ["work/notes"] }), json!({ "write": ["work/notes", "work"] })] {
        let mut sandbox = json!({ "write": ["work"] });
        sandbox.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let site = hostile::with(&json!({ "sandbox": sandbox, "cwd": "work" }));
        prepared(&site);
        let mut gateway = site.serve().await;
        let secret = site.path("secret").display().to_string();
        assert_refused(&attempt(&gateway, "read", &format!("{secret}/key")).await);
        assert_eq!(attempt(&gateway, "swap", &secret).await, "done");
        assert_eq!(attempt(&gateway, "no such attempt", "").await, "upstream_disconnected");

        gateway
            .says(&format!("by the link `{}`, which stands in `{}`", site.path("work/notes").display(), site.path("work").display()))
            .await;
        assert_eq!(attempt(&gateway, "read", &format!("{secret}/key")).await, "upstream_unavailable");
        assert_eq!(starts(&site).len(), 1, "{more}");
        let check = site.run(&["check"]).await;
        assert!(check.out.contains("cannot be started") && check.out.contains("by the link"), "{check:?}");

        std::fs::remove_file(site.path("work/notes")).unwrap();
        std::fs::rename(site.path("work/notes-before"), site.path("work/notes")).unwrap();
        until("a start", async || (attempt(&gateway, "list", "notes").await == "done").then_some(())).await;
        assert_refused(&attempt(&gateway, "read", &format!("{secret}/key")).await);
    }
}

#[tokio::test]
async fn a_link_that_a_wrapped_server_put_where_an_argument_names_it_is_not_granted_next_time() {
    let site = Site::empty();
    prepared(&site);
    let session = || {
        let mut command = site.command(&["wrap", "up", "--state", "../var", "--", &hostile::program(), "./notes"]);
        command.current_dir(site.path("work")).env("HOME", site.path("home"));
        Pipe::start(command)
    };
    let [secret, planted] = ["secret/key", "secret/planted"].map(|path| site.path(path).display().to_string());
    let mut first = session();
    assert_refused(&piped(&mut first, "read", &secret).await);
    assert_eq!(piped(&mut first, "swap", &site.path("secret").display().to_string()).await, "done");
    let (.., said) = first.leave().await;
    assert!(!said.contains("not granted"), "{said}");

    let mut second = session();
    for (what, at) in [("read", secret.as_str()), ("write", &planted), ("read", "notes/key"), ("list", "notes")] {
        assert_refused(&piped(&mut second, what, at).await);
    }
    assert_eq!(piped(&mut second, "write", "file").await, "done");
    let (.., said) = second.leave().await;
    let [notes, leads_to, folder] = ["work/notes", "secret", "work"].map(|path| site.path(path).display().to_string());
    let told = format!("not granted: `{notes}` leads to `{leads_to}` by `{notes}`, which stands in `{folder}`");
    assert!(said.contains(&told), "{told}\n{said}");
    assert!(starts(&site).iter().any(|note| note.contains(&told)), "{:?}", starts(&site));
}

#[tokio::test]
async fn a_link_where_no_server_writes_is_followed_and_told_with_what_it_leads_to() {
    let site = hostile::site(&json!({ "write": ["link"] }));
    prepared(&site);
    std::os::unix::fs::symlink(site.path("work"), site.path("link")).unwrap();
    let gateway = site.serve().await;
    assert_eq!(attempt(&gateway, "write", "link/file").await, "done");
    assert_eq!(attempt(&gateway, "write", "work/file").await, "done");
    assert_refused(&attempt(&gateway, "read", "secret/key").await);

    let told = format!("writes {} -> {}", site.path("link").display(), site.path("work").display());
    let record: Value = site.recorded("lifecycle", "action", "server_start").await;
    assert!(record["note"].as_str().unwrap().contains(&told), "{record}");
    for verb in ["status", "check"] {
        let done = site.run(&[verb]).await;
        assert!(done.out.contains(&told), "{told}\n{done:?}");
    }
}
