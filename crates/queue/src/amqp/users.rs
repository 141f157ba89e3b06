//! The broker's users: one for each role, with the rights that its role uses and no other. For brokers
//! that somebody else manages: a process that only checks its objects needs no right to make any.
//!
//! Each right is an exact list of objects. A publish needs the right to write to its exchange, a
//! consumer the right to read its queue; a look at a queue and a passive declaration need none.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::topology::Names;
use crate::event::BotName;

/// What a user of the broker is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerRole {
    /// Puts events in, and reads nothing.
    Ingress,
    /// Claims jobs and settles them.
    Worker,
    /// Looks at everything, puts back or drops what was given up, and puts in what was missed.
    Operator,
}

impl fmt::Display for BrokerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Worker => "worker",
            Self::Operator => "operator",
        })
    }
}

/// A user of the broker, who is called `<namespace>-<role>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUser {
    role: BrokerRole,
    password_hash: String,
}

impl BrokerUser {
    /// A user with this password, of which only the hash is kept. The salt is to be random, so that
    /// equal passwords cannot be told from their hashes; it is no secret.
    pub fn new(role: BrokerRole, password: &str, salt: [u8; 4]) -> Self {
        Self {
            role,
            password_hash: hash(password, salt),
        }
    }

    /// The user with this password as it is in former definitions of the same namespace; `None` if it
    /// has another password there, or is not there. Its salt is kept, so equal users are equal bytes.
    pub fn known(
        role: BrokerRole,
        password: &str,
        namespace: &str,
        former: &Value,
    ) -> Option<Self> {
        let name = name(namespace, role);
        let mut users = former["users"].as_array()?.iter();
        let user = users.find(|user| user["name"] == name)?;
        let kept = user["password_hash"].as_str()?;
        let salted = STANDARD.decode(kept).ok()?;
        let user = Self::new(role, password, *salted.first_chunk()?);
        (user.password_hash == kept).then_some(user)
    }

    pub(super) fn name(&self, names: &Names) -> String {
        name(names.namespace(), self.role)
    }

    /// The user in the format of RabbitMQ's definitions import.
    pub(super) fn definition(&self, names: &Names) -> Value {
        // The management pages let nobody in without a tag. This one shows, and changes nothing.
        let tags: &[&str] = match self.role {
            BrokerRole::Operator => &["monitoring"],
            BrokerRole::Ingress | BrokerRole::Worker => &[],
        };
        json!({
            "name": self.name(names),
            "password_hash": self.password_hash,
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": tags,
            "limits": {},
        })
    }

    /// What the user may do, in the same format.
    pub(super) fn permission(&self, names: &Names, bots: &[BotName], vhost: &str) -> Value {
        let Rights {
            configure,
            write,
            read,
        } = rights(self.role, names, bots);
        json!({
            "user": self.name(names),
            "vhost": vhost,
            "configure": names.exactly(&configure),
            "write": names.exactly(&write),
            "read": names.exactly(&read),
        })
    }
}

fn name(namespace: &str, role: BrokerRole) -> String {
    format!("{namespace}-{role}")
}

/// The objects that somebody may configure, write to and read from.
struct Rights {
    configure: Vec<String>,
    write: Vec<String>,
    read: Vec<String>,
}

fn rights(role: BrokerRole, names: &Names, bots: &[BotName]) -> Rights {
    match role {
        BrokerRole::Ingress => Rights {
            configure: Vec::new(),
            write: vec![
                names.way_in(),
                names.events(),
                names.outcomes(),
                // What is malformed is buried at once.
                names.dead(),
                names.letters(),
            ],
            read: Vec::new(),
        },
        BrokerRole::Worker => Rights {
            configure: Vec::new(),
            // The way in is where everybody asks whether the broker takes messages.
            write: [names.way_in(), names.post_exchange(), names.due()]
                .into_iter()
                .chain(names.levels())
                .chain([names.outcomes(), names.dead(), names.letters()])
                .collect(),
            read: std::iter::once(names.ask())
                .chain(bots.iter().map(|bot| names.post(bot)))
                .chain([names.outcomes()])
                .collect(),
        },
        BrokerRole::Operator => Rights {
            // A queue of this name tells others that somebody goes through the dead letters.
            configure: vec![names.dead_pass()],
            // What is put back goes by the way in if it was archived, and as due if it was dead. What
            // was never received, and is recovered, is archived as well.
            write: vec![
                names.way_in(),
                names.events(),
                names.due(),
                names.outcomes(),
                names.letters(),
            ],
            read: vec![
                names.dead(),
                names.letters(),
                names.archive(),
                names.outcomes(),
            ],
        },
    }
}

/// RabbitMQ's `rabbit_password_hashing_sha256`, with the salt in front so that it can be checked.
fn hash(password: &str, salt: [u8; 4]) -> String {
    let digest = Sha256::new()
        .chain_update(salt)
        .chain_update(password)
        .finalize();
    STANDARD.encode([&salt[..], &digest[..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(role: BrokerRole) -> Value {
        let bots = [
            BotName::default(),
            BotName::new("two").expect("a bot's name"),
        ];
        let user = BrokerUser::new(role, "hush", [0; 4]);
        user.permission(&Names::new("a.b"), &bots, "/")
    }

    #[test]
    fn a_password_is_hashed_as_rabbitmq_does_it() {
        // Computed with Python's hashlib and base64; RabbitMQ 4.0 lets a user with it log in.
        assert_eq!(
            hash("hush-1234", [0x01, 0xff, 0x20, 0x7e]),
            "Af8gfkz2OLv30BXa3Mjc6Ix8go/rjDgVPApNzhc0IUTNcuCc"
        );
    }

    #[test]
    fn a_user_is_known_by_its_password_and_keeps_its_salt() {
        let user = BrokerUser::new(BrokerRole::Worker, "hush-1234", [7; 4]);
        let former = json!({ "users": [{ "name": 1 }, user.definition(&Names::new("t"))] });
        let known =
            |role, password, namespace| BrokerUser::known(role, password, namespace, &former);
        assert_eq!(known(BrokerRole::Worker, "hush-1234", "t"), Some(user));
        assert_eq!(known(BrokerRole::Worker, "another", "t"), None);
        // Equal passwords of two users are not to be told from their hashes.
        assert_eq!(known(BrokerRole::Ingress, "hush-1234", "t"), None);
        assert_eq!(known(BrokerRole::Worker, "hush-1234", "u"), None);
    }

    #[test]
    fn nobody_is_known_from_what_are_no_definitions() {
        for former in [
            json!(null),
            json!([1]),
            json!({ "users": "t-worker" }),
            json!({ "users": [{ "name": "t-worker" }] }),
            json!({ "users": [{ "name": "t-worker", "password_hash": "" }] }),
            json!({ "users": [{ "name": "t-worker", "password_hash": "BwcH" }] }),
            json!({ "users": [{ "name": "t-worker", "password_hash": "no Base64" }] }),
            json!({ "users": [{ "name": "t-worker", "password_hash": 7 }] }),
        ] {
            let known = BrokerUser::known(BrokerRole::Worker, "hush-1234", "t", &former);
            assert_eq!(known, None, "{former}");
        }
    }

    #[test]
    fn neither_user_nor_definition_tells_the_password() {
        let user = BrokerUser::new(BrokerRole::Worker, "hush-1234", [7; 4]);
        let definition = user.definition(&Names::new("t"));
        assert!(!format!("{user:?}{definition}").contains("hush"));
        assert_eq!(definition["name"], "t-worker");
    }

    #[test]
    fn only_the_operator_may_look_into_the_management_pages() {
        for (role, tags) in [
            (BrokerRole::Ingress, json!([])),
            (BrokerRole::Worker, json!([])),
            (BrokerRole::Operator, json!(["monitoring"])),
        ] {
            let user = BrokerUser::new(role, "hush", [0; 4]);
            assert_eq!(user.definition(&Names::new("t"))["tags"], tags, "{role}");
        }
    }

    #[test]
    fn each_role_has_the_rights_that_it_uses_and_no_other() {
        let ingress = permission(BrokerRole::Ingress);
        assert_eq!(ingress["user"], "a.b-ingress");
        assert_eq!(ingress["configure"], "^$");
        assert_eq!(
            ingress["write"],
            r"^a\.b\.(in|events|outcomes|dead|letters)$"
        );
        assert_eq!(ingress["read"], "^$");

        let worker = permission(BrokerRole::Worker);
        assert_eq!(worker["configure"], "^$");
        assert_eq!(
            worker["write"],
            r"^a\.b\.(in|post|due|delay\.0|delay\.1|delay\.2|delay\.3|delay\.4|delay\.5|delay\.6|delay\.7|delay\.8|delay\.9|delay\.10|delay\.11|outcomes|dead|letters)$"
        );
        assert_eq!(
            worker["read"],
            r"^a\.b\.(ask|post\.bot|post\.two|outcomes)$"
        );

        let operator = permission(BrokerRole::Operator);
        assert_eq!(operator["configure"], r"^a\.b\.(dead\.pass)$");
        assert_eq!(
            operator["write"],
            r"^a\.b\.(in|events|due|outcomes|letters)$"
        );
        assert_eq!(operator["read"], r"^a\.b\.(dead|letters|archive|outcomes)$");
    }
}
