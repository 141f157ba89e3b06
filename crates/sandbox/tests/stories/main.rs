//! What the stand-ins do, seen from outside as a bot, a person in a room and a script see it.

mod chatwork;
mod faults;
mod receiver;
mod simsimi;
mod webhooks;

use std::time::Duration;

use chickwork_sandbox::{DEMO_API_TOKEN, Sandbox, Settings};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

/// More than anything on loopback takes.
const SOON: Duration = Duration::from_secs(10);

/// A sandbox as in a demo, with a client beside it.
struct Scene {
    sandbox: Sandbox,
    client: Client,
}

impl Scene {
    async fn new() -> Self {
        Self::with(demo()).await
    }

    async fn with(settings: Settings) -> Self {
        install_tls();
        Self {
            sandbox: Sandbox::start(settings).await.expect("a sandbox"),
            client: client(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.address())
    }

    /// A call of Chatwork's API with the right token.
    async fn get(&self, path: &str) -> Response {
        let request = self.client.get(self.url(&format!("/v2{path}")));
        answered(request.header("x-chatworktoken", DEMO_API_TOKEN)).await
    }

    fn posting(&self, room: impl std::fmt::Display, text: &str) -> RequestBuilder {
        self.client
            .post(self.url(&format!("/v2/rooms/{room}/messages")))
            .header("x-chatworktoken", DEMO_API_TOKEN)
            .form(&[("body", text)])
    }

    async fn post(&self, room: impl std::fmt::Display, text: &str) -> Response {
        answered(self.posting(room, text)).await
    }

    /// Orders a fault as a script does.
    async fn break_down(&self, fault: Value) -> Response {
        answered(self.client.post(self.url("/faults")).json(&fault)).await
    }
}

/// Without webhooks; what wants them says where to.
fn demo() -> Settings {
    Settings {
        webhook_url: String::new(),
        ..Settings::demo()
    }
}

fn client() -> Client {
    Client::builder()
        .no_proxy()
        .timeout(SOON)
        .build()
        .expect("a client")
}

fn install_tls() {
    // Fails from the second test on, because it is done then.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

async fn answered(request: RequestBuilder) -> Response {
    request.send().await.expect("an answer")
}

async fn json(response: Response) -> Value {
    response.json().await.expect("JSON")
}
