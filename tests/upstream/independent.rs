//! A server that we did not write, so that both sides of a misunderstanding are not ours.

use std::sync::Arc;

use doorward::upstream::{Dialect, Era};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult, PaginatedRequestParams, ServerCapabilities,
    ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{Fixture, names, spec};

struct Echo;

impl ServerHandler for Echo {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: RequestContext<RoleServer>) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(vec![Tool::new("echo", "says it again", serde_json::Map::new())]))
    }

    async fn call_tool(&self, request: CallToolRequestParams, _: RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        let text = serde_json::to_string(&request.arguments).unwrap();
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

async fn serve(json: bool) -> serde_json::Value {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = StreamableHttpServerConfig::default().with_json_response(json);
    let service = Arc::new(StreamableHttpService::new(|| Ok(Echo), Arc::new(LocalSessionManager::default()), config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = Arc::clone(&service);
            let answer = service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, std::convert::Infallible>(service.handle(request).await) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    json!({"http": {"url": format!("http://{address}/")}})
}

#[tokio::test]
async fn an_independent_server_is_called_in_both_eras() {
    for (remembered, json) in [(None, false), (None, true), (Some(Era::Legacy), false)] {
        let mut spec = spec(&serve(json).await);
        spec.remembered = remembered.map(|_| Dialect::Legacy);
        let mut fixture = Fixture::connected(spec).await;
        let listing = fixture.listing().await;
        assert_eq!((listing.version.era(), names(&listing)), (remembered.unwrap_or(Era::Modern), vec!["echo".to_owned()]));
        assert!(listing.server_info.is_some());
        for _ in 0..3 {
            let result = fixture.call("echo").await.unwrap();
            assert_eq!(result["content"][0]["text"], r#"{"n":1.0}"#);
        }
        fixture.upstream.stop().await;
    }
}
