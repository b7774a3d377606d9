//! What the behaviour tests are built from: an operator's folder, a gateway that serves it, clients, and a tool server that
//! does as it is told. Everything listens on ports that the system gives, and ends with its test.

pub mod asking;
pub mod client;
pub mod hostile;
pub mod http2;
pub mod issuer;
pub mod lines;
pub mod old_sse;
pub mod pipe;
pub mod records;
pub mod serving;
pub mod site;
pub mod stream;
pub mod upstream;

use std::time::Duration;

pub use client::{Answer, Ask, Client, Session};
pub use issuer::Issuer;
pub use serving::Serving;
pub use site::Site;
pub use upstream::{Does, Upstream};

/// No wait of a test is longer; only a test that fails gets there.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what has to come.
///
/// # Panics
/// When it does not.
pub async fn soon<T>(what: &str, coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, coming).await.unwrap_or_else(|_| panic!("{what}: nothing came"))
}

/// Looks again and again until `look` finds something. The one place that lets time pass: a file that another process writes
/// gives no event, and the number of looks is bounded.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1_500 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: it never came true")
}
