//! `doorward stdio`: the gateway for clients that start a command.

use super::{Context, Failure, local};
use crate::identity::Principal;
use crate::listen::admin::{self, Command};

/// Arguments of `doorward stdio`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example, as an entry of a client's mcp.json:\n  { \"command\": \"doorward\", \"args\": [\"stdio\", \"--config\", \"/etc/doorward/doorward.yaml\"] }\n\nIt acts for `stdio.agent` of the configuration, through a running gateway of the same state folder if there is one."
)]
pub struct Args {}

/// Serves the client on standard input and output.
pub async fn run(context: &Context, _: &Args) -> Result<u8, Failure> {
    let config = context.config()?;
    let agent = config.stdio.agent.clone();
    if let Some(gateway) = admin::connect(config.state.as_ref(), &Command::Mcp { agent: agent.clone(), stdio: true }).await? {
        local::relay(tokio::io::stdin(), tokio::io::stdout(), gateway).await?;
        return Ok(0);
    }
    let (running, mut events) = local::start(&config).await?;
    let ended = local::serve_stdio(&running, &mut events, Principal::local(&agent, "stdio")).await;
    running.stop(ended).await;
    Ok(0)
}
