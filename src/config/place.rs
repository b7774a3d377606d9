//! Where a member of a YAML text stands, for what is found wrong only after all of it was read.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Fault;

/// A fault of the member at `path`: keys, and positions in sequences as digits. Where the text has no such member, as where a default is wrong,
/// the fault is the file's.
pub fn fault_at(file: &Path, text: &str, path: &[&str], message: impl Into<String>) -> Fault {
    let options = serde_saphyr::options! { with_snippet: false };
    let whole: Option<Member> = serde_saphyr::from_str_with_options(text, options).ok();
    let (mut at, mut member) = ((0, 0), whole.as_ref());
    for key in path {
        let Some(next) = member.and_then(|member| member.0.get(*key)) else { return Fault::file(file, message) };
        at = (next.referenced.line(), next.referenced.column());
        member = Some(&next.value);
    }
    Fault::at(file, at.0, at.1, message)
}

/// A value of any kind, as the places of what it holds.
#[derive(Default)]
struct Member(HashMap<String, Spanned<Member>>);

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Places)
    }
}

struct Places;

impl<'de> Visitor<'de> for Places {
    type Value = Member;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member, A::Error> {
        let mut members = HashMap::new();
        while let Some((key, value)) = map.next_entry()? {
            members.insert(key, value);
        }
        Ok(Member(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Member, A::Error> {
        let mut members = HashMap::new();
        while let Some(value) = seq.next_element()? {
            members.insert(members.len().to_string(), value);
        }
        Ok(Member(members))
    }

    fn visit_bool<E>(self, _value: bool) -> Result<Member, E> {
        Ok(Member::default())
    }

    fn visit_i64<E>(self, _value: i64) -> Result<Member, E> {
        Ok(Member::default())
    }

    fn visit_u64<E>(self, _value: u64) -> Result<Member, E> {
        Ok(Member::default())
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Member, E> {
        Ok(Member::default())
    }

    fn visit_str<E>(self, _value: &str) -> Result<Member, E> {
        Ok(Member::default())
    }

    fn visit_unit<E>(self) -> Result<Member, E> {
        Ok(Member::default())
    }

    fn visit_none<E>(self) -> Result<Member, E> {
        Ok(Member::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_at_its_place_however_deep() {
        let text = "a: 1\nlisten:\n  http: 0.0.0.0:1   # beyond\nagents:\n  - name: ok\n  - { name: 'no good', key: null }\nflow: { b: [true, 2.5] }\n";
        let at = |path: &[&str]| fault_at(Path::new("f.yaml"), text, path, "wrong").to_string();
        assert_eq!(at(&["listen", "http"]), "f.yaml:3:9: wrong");
        assert_eq!(at(&["agents", "1", "name"]), "f.yaml:6:13: wrong");
        assert_eq!(at(&["flow", "b", "1"]), "f.yaml:7:19: wrong");
        assert_eq!((at(&["console", "http"]), at(&["agents", "7"])), ("f.yaml: wrong".into(), "f.yaml: wrong".into()));
    }
}
