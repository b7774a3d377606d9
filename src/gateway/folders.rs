//! The folders that people write, read into everything that decides.
//!
//! Leaves to `assembly`: what runs, and when the folders are read anew.

pub mod bundles;
pub mod shadow;
pub mod signed;

use std::path::PathBuf;
use std::sync::Arc;

use bundles::Files;

use super::assembly::{Loaded, Plan, carried, targets};
use super::{obligations, recording};
use crate::catalog::{Catalog, Live};
use crate::config::{Config, Fault, Signed};
use crate::identity::People;
use crate::limit::{Limits, Time};
use crate::policy::{Flow, Names, Options, Policy};
use crate::sandbox::{self, Ground};
use crate::schema::Schemas;
use crate::state::State;

/// The folders that people write.
#[derive(Clone, Debug)]
pub struct Folders {
    /// `tool-manifests/`.
    pub manifests: PathBuf,
    /// `policies/`.
    pub policies: PathBuf,
    /// The agents that the configuration names.
    pub agents: Vec<String>,
    /// The folder of the state database, which knows others.
    pub state: PathBuf,
    /// Whether somebody is configured who opens payloads.
    pub has_openers: bool,
    /// Whose signatures the policy needs.
    pub signed: Signed,
    /// What the built-in rule about labels does.
    pub flow: Flow,
    /// Where commands of manifests stand, and what they may not reach.
    pub ground: Ground,
}

impl Folders {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let configured = config.agents.iter().map(|agent| &agent.name);
        let acting = [Some(&config.stdio.agent), config.identity.anonymous.as_ref().map(|who| &who.agent)].into_iter().flatten();
        Self {
            manifests: config.manifests.as_ref().to_owned(),
            policies: config.policies.as_ref().to_owned(),
            agents: configured.chain(acting).cloned().collect(),
            state: config.state.as_ref().to_owned(),
            has_openers: config.openers().is_some(),
            signed: config.policy.clone(),
            flow: Flow::of(&config.labels.toxic_flow),
            ground: Ground::of(config),
        }
    }

    /// The same for those who look at a policy before anybody has signed it.
    #[must_use]
    pub fn unsigned(self) -> Self {
        Self { signed: Signed::default(), ..self }
    }

    /// Every agent that there is now; `None` when the state database cannot be read.
    pub fn known(&self) -> Option<Vec<String>> {
        State::agents(&self.state).map(|stored| self.agents.iter().cloned().chain(stored).collect()).ok()
    }
}

impl Plan for Folders {
    fn load(
        &self,
        live: &dyn Fn(&str) -> Arc<Live>,
        schemas: &Schemas,
        previous: Option<&Limits>,
        people: &People,
    ) -> Result<Loaded, Vec<Fault>> {
        // Each file is read by itself. What was the same before and after is what was read: never one file of now and another of before.
        for _ in 0..TRIES {
            let files = Files::read(&self.policies).map_err(|fault| vec![fault])?;
            let loaded = self.load_once(live, schemas, previous, people)?;
            if Files::read(&self.policies).map_err(|fault| vec![fault])? == files {
                return Ok(Loaded { files, ..loaded });
            }
        }
        Err(vec![Fault::file(&self.policies, "the files change while they are read")])
    }
}

impl Folders {
    fn load_once(
        &self,
        live: &dyn Fn(&str) -> Arc<Live>,
        schemas: &Schemas,
        previous: Option<&Limits>,
        people: &People,
    ) -> Result<Loaded, Vec<Fault>> {
        let catalog = Catalog::load(&self.manifests, live, schemas)?;
        let reaching = sandbox::refuse(&self.manifests, catalog.sources().iter().map(|source| &*source.manifest), &self.ground);
        if !reaching.is_empty() {
            return Err(reaching);
        }
        let upstreams: Vec<String> = catalog.sources().iter().map(|source| source.manifest.upstream.clone()).collect();
        let targets = targets(&catalog);
        // An agent can be added at any time, so a row may name one before that; it is only told of.
        let agents = self.known();
        let names = Names { upstreams: &upstreams, agents: agents.as_deref(), targets: &targets };
        let limits = Limits::load(&self.policies, &names, &Time::machine())?;
        let limits_text = limits.text().to_owned();
        let options = Options {
            upstreams: upstreams.clone(),
            agents: agents.clone(),
            limits: limits_text,
            labels: catalog.tools().iter().map(|tool| tool.labels.clone()).collect(),
            brought: catalog.brought(),
            flow: self.flow.clone(),
            arguments: catalog.tools().iter().map(|tool| tool.argument_names.to_vec()).collect(),
            ..Options::default()
        };
        let (policy, warnings) = Policy::load(&self.policies, &targets, &options)?;
        signed::vouched(&self.policies, &self.signed, &policy.written(&options.limits)).map_err(|fault| vec![fault])?;
        obligations::refuse_unheard(&self.manifests, &catalog, people)?;
        obligations::refuse_unkept(&self.policies.join("policy.csv"), &policy, people)?;
        let shadow = shadow::load(&self.state, &names, &options);
        let for_nobody = limits.for_nobody(policy.rows());
        if !for_nobody.is_empty() {
            return Err(for_nobody);
        }
        let limits = carried(limits.with_rows(policy.rows()), previous, &targets);
        drop(targets);
        recording::opened_by_somebody(self, &catalog, &policy)?;
        Ok(Loaded { catalog, policy, shadow, limits, warnings, files: Files::default() })
    }
}

/// How often files are read that change meanwhile.
const TRIES: u32 = 3;
