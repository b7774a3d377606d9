//! What people do about calls that wait: look, say yes, say no. Each is on record before it counts.
//!
//! Leaves to others: how people are asked (`cli`), and whose word counts (`approval`).

use std::sync::Arc;

use super::Shared;
use crate::approval::{Lack, Looked, Refused, USER};
use crate::audit::record::Record;
use crate::audit::trail::approval_record;
use crate::error::Error;

/// What a person's word has come to.
#[derive(Debug)]
pub struct Decided {
    /// Who it was.
    pub person: String,
    /// The approval as it stood before.
    pub looked: Looked,
    /// Whose yes is still missing; empty where the call may be made now, or never.
    pub lacks: Vec<Lack>,
}

/// Why a person's word came to nothing.
#[derive(Debug)]
pub enum Undone {
    /// The key is no person's.
    NoPerson,
    /// The word does not count.
    Refused(Refused),
    /// It could not be recorded, or the database not be read.
    Failed(Error),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Shared {
    /// Takes the word of whoever has this key about a call that waits.
    ///
    /// # Errors
    /// Why it came to nothing; that is recorded too where it is about a known approval.
    pub async fn decide(self: &Arc<Self>, id: &str, key: &str, yes: bool, reason: Option<&str>) -> Result<Decided, Undone> {
        let person = self.identity.load().person(key).cloned();
        let Some(person) = person else {
            self.refuse(id, None, "the key is no person's").await?;
            return Err(Undone::NoPerson);
        };
        let (row, asking) = (id.to_owned(), person.clone());
        let may = self.with_approvals(move |approvals, people| approvals.may_decide(&row, yes, &asking, people)).await?;
        let looked = match may {
            Ok(looked) => looked,
            Err(refused) => {
                self.refuse(id, Some(&person.name), &refused.to_string()).await?;
                return Err(Undone::Refused(refused));
            }
        };
        let lacks = if yes { self.approvals.after(&looked, &person.name, self.identity.load().people()) } else { Vec::new() };
        let action = if yes { "approved" } else { "denied" };
        let record = Record {
            actor: Some(person.name.to_string().into()),
            after: Some(after(yes, &lacks).into()),
            note: reason.map(Into::into),
            ..approval_record(id, &looked.facts, action)
        };
        self.audit.event(&record).await?;
        let (row, who, is_last) = (looked.clone(), person.name.to_string(), lacks.is_empty());
        let counted =
            self.with_approvals(move |approvals, _| if yes { approvals.yes(&row, &who, is_last) } else { approvals.no(&row.row.id, &who) });
        if !counted.await? {
            self.refuse(id, Some(&person.name), "it was used, decided or too late meanwhile").await?;
            return Err(Undone::Refused(Refused::Ended("not open any more")));
        }
        Ok(Decided { person: person.name.to_string(), looked, lacks })
    }

    /// Takes what the agent's client says that its user says. It counts for the rows that ask the user, and for no other: the client could have
    /// answered by itself.
    ///
    /// # Errors
    /// When it could not be recorded, or the database not be read.
    pub(super) async fn relayed(self: &Arc<Self>, id: &str, yes: bool) -> Result<(), Error> {
        let name = id.to_owned();
        let Some(looked) = self.with_approvals(move |approvals, people| approvals.look(&name, people)).await? else { return Ok(()) };
        let lacks = if yes { self.approvals.after(&looked, USER, self.identity.load().people()) } else { Vec::new() };
        let record = Record {
            actor: Some("user".into()),
            after: Some(after(yes, &lacks).into()),
            note: Some("relayed by the agent's client".into()),
            ..approval_record(id, &looked.facts, if yes { "approved" } else { "denied" })
        };
        self.audit.event(&record).await?;
        let is_last = lacks.is_empty();
        let counted = self.with_approvals(
            move |approvals, _| if yes { approvals.yes(&looked, USER, is_last) } else { approvals.no(&looked.row.id, USER) },
        );
        // One that was decided meanwhile stands as it is, and the call is told so.
        counted.await.map(drop)
    }

    /// Records a word that does not count, where there is such an approval.
    async fn refuse(self: &Arc<Self>, id: &str, who: Option<&str>, why: &str) -> Result<(), Error> {
        let name = id.to_owned();
        if let Some(looked) = self.with_approvals(move |approvals, people| approvals.look(&name, people)).await? {
            let (actor, note) = (who.map(Into::into), Some(why.into()));
            self.audit.event(&Record { actor, note, ..approval_record(id, &looked.facts, "refused") }).await?;
        }
        Ok(())
    }

    /// The calls that wait, or all that are still known.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn approvals(self: &Arc<Self>, all: bool) -> Result<Vec<Looked>, Error> {
        self.expire().await?;
        self.with_approvals(move |approvals, people| approvals.list(all, people)).await
    }

    /// One of them, with the arguments that will run where it is open. That they were shown is on record before.
    ///
    /// # Errors
    /// When the database cannot be read, or the record not be stored.
    pub async fn approval(self: &Arc<Self>, id: &str, who: &str) -> Result<Option<(Looked, Option<Vec<u8>>)>, Error> {
        self.expire().await?;
        let name = id.to_owned();
        let Some(looked) = self.with_approvals(move |approvals, people| approvals.look(&name, people)).await? else { return Ok(None) };
        let arguments = self.approvals.arguments(&looked.row);
        if arguments.is_some() {
            self.audit.event(&Record { actor: Some(who.into()), ..approval_record(id, &looked.facts, "shown") }).await?;
        }
        Ok(Some((looked, arguments)))
    }

    /// Ends what is too late, each with a record. Costs one look at a number where nothing is.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn expire_approvals(self: &Arc<Self>) -> Result<(), Error> {
        if self.approvals.is_due() { self.expire().await } else { Ok(()) }
    }

    async fn expire(self: &Arc<Self>) -> Result<(), Error> {
        for (id, facts) in self.with_approvals(|approvals, _| approvals.expire()).await? {
            self.audit.note(&approval_record(&id, &facts, "expired"));
        }
        Ok(())
    }
}

fn after(yes: bool, lacks: &[Lack]) -> String {
    match (yes, lacks.is_empty()) {
        (false, _) => "denied".to_owned(),
        (true, true) => "approved".to_owned(),
        (true, false) => format!("waits for {}", lacks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")),
    }
}
