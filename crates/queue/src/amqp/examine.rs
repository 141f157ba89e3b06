//! Looks at a broker: whether its nodes answer, what they are, whether the objects are there and as they
//! have to be, and whether this user may write and read. What is there is compared by declaring it
//! once more, which changes nothing; what is missing is left missing.
//!
//! AMQP tells nothing about bindings, and nothing about the broker's own configuration.

use std::time::Duration;

use deadpool_lapin::lapin;
use futures_util::future::join_all;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection};

use super::connection::{address, connect, parsed};
use super::greeting::Greeting;
use super::publish::{Address, Message, Routing, confirmed, open_confirming};
use super::topology::{Names, Object, Topology, said};
use super::{BrokerError, close};
use crate::examine::{Finding, Grade, Needs};
use crate::{Declare, Settings};

/// How long a node may take to let us in.
const NODE_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to answer a question. A queue that lives answers in milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// After so many objects that do not answer, no more are looked at.
const MOST_DEAD: usize = 3;
/// The oldest release that can keep the queue's promises, and the newest line that was tried.
const OLDEST: (u32, u32) = (3, 10);
const NEWEST_MAJOR: u32 = 4;
/// Seconds. With a longer heartbeat a frozen worker hands over later than promised: that takes
/// almost three of them.
const LONGEST_HEARTBEAT: u16 = 7;
/// So many names stand in one sentence.
const MOST_NAMES: usize = 5;
/// A routing key that leads from the way in to no queue.
const NOWHERE: &str = "doctor";

const BROKER: &str = "broker";
const OBJECTS: &str = "broker objects";
const RIGHTS: &str = "broker permissions";
const WRITING: &str = "broker permission to write";
const READING: &str = "broker permission to read";

pub(crate) async fn examine(urls: &[String], settings: &Settings, needs: Needs) -> Vec<Finding> {
    let names = Names::new(&settings.namespace);
    let topology = Topology::new(&names, &settings.bots, settings);
    let (mut findings, nodes) = nodes(urls, &names).await;
    if let Some(node) = nodes.first() {
        let mut questions = Questions::to(&node.url);
        let objects = Objects::look(&mut questions, &topology).await;
        findings.extend(objects.findings(&settings.namespace, settings.declare));
        // Whoever binds queues to exchanges reads from these.
        let reads = needs == Needs::WritingAndReading || settings.declare == Declare::Active;
        let rights = if reads {
            rights(&mut questions, &names).await
        } else {
            right_to_write(&questions.url, &names).await
        };
        findings.extend(rights);
        questions.close().await;
    }
    findings
}

/// A node that let us in.
struct Node {
    url: String,
    address: String,
    /// Seconds; 0 for none.
    heartbeat: u16,
    greeting: Option<Greeting>,
}

/// A node that did not.
struct Away {
    finding: Finding,
    /// Whether it does no harm as long as another node answers.
    others_will_do: bool,
}

/// What is to be said about the nodes, and those that let us in.
async fn nodes(urls: &[String], names: &Names) -> (Vec<Finding>, Vec<Node>) {
    let mut nodes = Vec::new();
    let mut away = Vec::new();
    for reached in join_all(urls.iter().map(|url| Node::reach(url, names))).await {
        match reached {
            Ok(node) => nodes.push(node),
            Err(node) => away.push(node),
        }
    }
    let mut findings: Vec<_> = nodes.iter().flat_map(Node::findings).collect();
    findings.extend(away.into_iter().map(|node| {
        let grade = if node.others_will_do && !nodes.is_empty() {
            Grade::Notice
        } else {
            Grade::Wrong
        };
        Finding {
            grade,
            ..node.finding
        }
    }));
    findings.extend(several_clusters(&nodes));
    (findings, nodes)
}

impl Node {
    async fn reach(url: &str, names: &Names) -> Result<Self, Away> {
        let uri = parsed(url).map_err(|error| Away {
            finding: Finding::wrong(
                BROKER,
                format!("An address in CHICKWORK_QUEUE is not one of a broker: {error}."),
                "Write it like amqp://user:password@host:5672/%2f.",
            ),
            others_will_do: false,
        })?;
        let address = address(&uri);
        let (greeting, connection) = tokio::join!(
            tokio::time::timeout(NODE_LIMIT, Greeting::of(&uri)),
            answered(NODE_LIMIT, connect(url, "doctor")),
        );
        match connection {
            Ok(connection) => {
                let heartbeat = connection.configuration().heartbeat();
                close(connection).await;
                Ok(Self {
                    url: url.to_owned(),
                    address,
                    heartbeat,
                    greeting: greeting.ok().and_then(Result::ok),
                })
            }
            Err(problem) => Err(shut_out(&address, &problem, names)),
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let subject = format!("{BROKER} {}", self.address);
        let mut findings = vec![match &self.greeting {
            Some(greeting) => what_it_is(subject.clone(), greeting),
            None => Finding::good(subject.clone(), "It answers."),
        }];
        if self.heartbeat == 0 || self.heartbeat > LONGEST_HEARTBEAT {
            let says = format!(
                "The heartbeat is {} s, so a worker that freezes, or a broker that dies, is noticed late.",
                self.heartbeat
            );
            let cure = "Take `heartbeat=` out of CHICKWORK_QUEUE: then it is 5 s.";
            findings.push(Finding::notice(subject, says).with_cure(cure));
        }
        findings
    }
}

/// Whether it is a broker that keeps the queue's promises.
fn what_it_is(subject: String, greeting: &Greeting) -> Finding {
    let Greeting {
        product, version, ..
    } = greeting;
    match greeting.release() {
        _ if product != "RabbitMQ" => {
            let says = format!("It is {product} {version}; Chickwork was made for RabbitMQ.");
            Finding::notice(subject, says)
                .with_cure("Use RabbitMQ: others lack quorum queues or streams.")
        }
        Some(release) if release < OLDEST => {
            let says = format!("It is RabbitMQ {version}, which is too old to keep jobs safe.");
            Finding::wrong(subject, says, "Upgrade it to 3.10 or newer.")
        }
        Some((major, _)) if major > NEWEST_MAJOR => {
            let says =
                format!("It is RabbitMQ {version}; nobody has tried this with Chickwork yet.");
            Finding::notice(subject, says)
        }
        _ => Finding::good(
            subject,
            format!(
                "RabbitMQ {version} answers. (Whether its advanced.config has \
                 dead_letter_worker_publisher_confirm_timeout cannot be seen from here.)"
            ),
        ),
    }
}

/// The node that let nobody in, and what it said.
fn shut_out(address: &str, problem: &Problem, names: &Names) -> Away {
    let (subject, said) = (format!("{BROKER} {address}"), problem.to_string());
    let (says, cure) = if said.contains("ACCESS_REFUSED") {
        let cure = "Correct them in CHICKWORK_QUEUE. (The user guest may log in only from the broker's own machine.)";
        (
            "It refuses the user or the password.".to_owned(),
            cure.to_owned(),
        )
    } else if said.contains("vhost") && said.contains("not found") {
        let cure = "Correct the path in CHICKWORK_QUEUE (/ is written %2f), or create it with rabbitmqctl add_vhost.";
        (
            format!("The virtual host does not exist ({said})."),
            cure.to_owned(),
        )
    } else if said.contains("access to vhost") {
        (
            format!("The user may not use the virtual host ({said})."),
            grant(names),
        )
    } else {
        let cure = "See whether it runs, and whether host, port, TLS and firewall are right.";
        let finding = Finding::wrong(subject, format!("It cannot be reached: {said}."), cure);
        return Away {
            finding,
            others_will_do: true,
        };
    };
    Away {
        finding: Finding::wrong(subject, says, cure),
        others_will_do: false,
    }
}

/// Jobs that are put into one cluster are never seen in another.
fn several_clusters(nodes: &[Node]) -> Option<Finding> {
    let cluster = |node: &Node| node.greeting.as_ref()?.cluster.clone();
    let first = nodes.iter().find_map(cluster)?;
    let other = nodes
        .iter()
        .filter_map(cluster)
        .find(|name| *name != first)?;
    Some(Finding::wrong(
        BROKER,
        format!("The nodes belong to different clusters: {first} and {other}."),
        "Name in CHICKWORK_QUEUE nodes of one cluster only.",
    ))
}

/// Why there was no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    Said(String),
    Silence,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Said(said) => f.write_str(said),
            Self::Silence => f.write_str("it does not answer"),
        }
    }
}

impl Problem {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Said(said) if said.contains(word))
    }
}

async fn answered<T>(
    limit: Duration,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer.map_err(|error| Problem::Said(said(&error))),
        Err(_) => Err(Problem::Silence),
    }
}

/// Asks a node one thing after the other, each on an open channel: many an answer closes the channel,
/// and some the connection.
struct Questions {
    url: String,
    connection: Option<Connection>,
    channel: Option<Channel>,
}

impl Questions {
    fn to(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            connection: None,
            channel: None,
        }
    }

    async fn ask<T>(
        &mut self,
        request: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<T, Problem> {
        let channel = self.channel().await?;
        let answer = answered(ANSWER_LIMIT, request(&channel)).await;
        if answer.is_ok() {
            self.channel = Some(channel);
        }
        answer
    }

    async fn channel(&mut self) -> Result<Channel, Problem> {
        if let Some(channel) = self.channel.take()
            && channel.status().connected()
        {
            return Ok(channel);
        }
        let open = self.connection.take();
        let connection = match open.filter(|connection| connection.status().connected()) {
            Some(connection) => connection,
            None => answered(NODE_LIMIT, connect(&self.url, "doctor")).await?,
        };
        let connection = self.connection.insert(connection);
        answered(ANSWER_LIMIT, connection.create_channel()).await
    }

    async fn close(self) {
        if let Some(connection) = self.connection {
            close(connection).await;
        }
    }
}

/// How the objects are.
#[derive(Default)]
struct Objects {
    count: usize,
    equal: usize,
    missing: Vec<String>,
    /// Missing, and not needed.
    missed: Vec<String>,
    /// They differ, which does no harm; with what the broker said.
    different: Vec<String>,
    /// They are there, but this user may not compare them.
    not_compared: usize,
    /// They break a promise.
    unusable: Vec<Finding>,
    /// They do not answer; with what was said instead.
    dead: Vec<(String, Problem)>,
    /// Why what we can do without cannot be used, though it may be there.
    done_without: Vec<String>,
}

impl Objects {
    async fn look(questions: &mut Questions, topology: &Topology) -> Self {
        let mut objects = Self::default();
        for object in topology.objects() {
            objects.count += 1;
            if objects.dead.len() < MOST_DEAD {
                objects.look_at(questions, topology, &object).await;
            }
        }
        objects
    }

    async fn look_at(
        &mut self,
        questions: &mut Questions,
        topology: &Topology,
        object: &Object<'_>,
    ) {
        let name = object.name();
        let named = || format!("{} {name}", object.kind());
        match questions
            .ask(async |channel| object.find(channel).await)
            .await
        {
            // Said of an object that does not exist; of one whose process has ended it says something else.
            Err(problem) if problem.is("NOT_FOUND - no ") => {
                if topology.is_optional(name) {
                    self.missed.push(name.to_owned());
                } else {
                    self.missing.push(name.to_owned());
                }
                return;
            }
            Err(Problem::Said(said)) if said.starts_with("ACCESS_REFUSED") => {
                if topology.is_optional(name) {
                    self.done_without.push(said);
                } else {
                    self.not_compared += 1;
                }
                return;
            }
            Err(problem) => return self.dead.push((named(), problem)),
            // Of a queue without a leader the broker says that it is empty.
            Ok((0, 0)) if object.may_be_fetched_from() => {
                if let Some(problem) = leaderless(questions, name).await {
                    return self.dead.push((named(), problem));
                }
            }
            Ok(_) => {}
        }
        match questions
            .ask(async |channel| object.compare(channel).await)
            .await
        {
            Ok(()) => self.equal += 1,
            Err(Problem::Said(said)) if object.is_harmless(&said) => {
                self.different.push(format!("{name} ({said})"));
            }
            Err(Problem::Said(said))
                if topology.is_optional(name)
                    && ["ACCESS_REFUSED", "PRECONDITION_FAILED"]
                        .iter()
                        .any(|refusal| said.starts_with(refusal)) =>
            {
                self.done_without.push(said);
            }
            Err(Problem::Said(said)) if said.starts_with("ACCESS_REFUSED") => {
                self.not_compared += 1;
            }
            Err(Problem::Said(said)) if said.starts_with("PRECONDITION_FAILED") => {
                let says = format!("It exists with other arguments ({said}).");
                let cure =
                    "Empty and delete it: it is created again. Or set another CHICKWORK_NAMESPACE.";
                self.unusable.push(Finding::wrong(named(), says, cure));
            }
            Err(problem) => self.dead.push((named(), problem)),
        }
    }

    fn findings(mut self, namespace: &str, declare: Declare) -> Vec<Finding> {
        if self.not_compared > 0 {
            // Then it is the user that may configure nothing.
            self.not_compared += self.done_without.len();
            self.done_without.clear();
        }
        let mut findings = self.unusable;
        let count = self.count;
        if !self.missing.is_empty() {
            let all = self.missing.len() + self.missed.len() == count;
            let says = if all {
                format!("None of the {count} objects of the namespace {namespace} exists yet.")
            } else {
                let missing = self.missing.len();
                format!(
                    "Of the {count} objects {missing} are missing: {}.",
                    listed(&self.missing)
                )
            };
            findings.push(match declare {
                Declare::Passive => Finding::wrong(
                    OBJECTS,
                    says,
                    "Import the output of `chickwork topology`, or set CHICKWORK_DECLARE=active. Is CHICKWORK_NAMESPACE right?",
                ),
                Declare::Active | Declare::Nothing => {
                    let says =
                        format!("{says} The next ingress or worker that connects creates them.");
                    Finding::notice(OBJECTS, says)
                }
            });
        } else if !self.missed.is_empty() {
            let says = format!(
                "There is no log of dead letters ({}), so listing them raises the broker's count of their returns.",
                listed(&self.missed)
            );
            findings.push(match declare {
                Declare::Passive => Finding::notice(OBJECTS, says)
                    .with_cure("Import the output of `chickwork topology`."),
                Declare::Active | Declare::Nothing => Finding::notice(
                    OBJECTS,
                    format!("{says} The next ingress or worker that connects creates it."),
                ),
            });
        }
        if let Some(said) = self.done_without.first() {
            let says = format!(
                "The log of dead letters cannot be used ({said}), so listing them raises the broker's count of their returns."
            );
            findings.push(
                Finding::notice(OBJECTS, says)
                    .with_cure("Grant the right to configure it, or delete what is in its place."),
            );
        }
        if !self.different.is_empty() {
            let says = format!(
                "These keep arguments of their own, which break no promise: {}.",
                listed(&self.different)
            );
            findings.push(Finding::notice(OBJECTS, says));
        }
        for (object, problem) in self.dead {
            let says =
                format!("It is there, but it cannot be used: {problem}. It may have no leader.");
            let cure = "Look at `rabbitmq-queues quorum_status`, and start the nodes that are down. If no node has it any more, delete it: \
                        it is created again, and what lay in it is still in the archive.";
            findings.push(Finding::wrong(object, says, cure));
        }
        if self.not_compared > 0 && declare == Declare::Active {
            let says = "The broker's user may not configure the objects, so no process can start with CHICKWORK_DECLARE=active.";
            let cure = format!(
                "{} Or set CHICKWORK_DECLARE=passive.",
                grant(&Names::new(namespace))
            );
            findings.push(Finding::wrong(OBJECTS, says, cure));
        } else if self.not_compared > 0 {
            let says = format!(
                "{} are there; their arguments cannot be compared, as the user may not configure them, and bindings cannot be seen.",
                of_all(self.not_compared, count)
            );
            findings.push(Finding::good(OBJECTS, says));
        }
        if self.equal > 0 {
            let bindings = if declare == Declare::Passive {
                " Bindings cannot be seen."
            } else {
                ""
            };
            let says = format!(
                "{} are as they have to be.{bindings}",
                of_all(self.equal, count)
            );
            findings.push(Finding::good(OBJECTS, says));
        }
        findings
    }
}

/// What is wrong with a queue that is said to be empty, with nobody at it, and may not answer at all.
async fn leaderless(questions: &mut Questions, queue: &str) -> Option<Problem> {
    let got = questions
        .ask(async |channel| {
            let got = channel
                .basic_get(queue.into(), BasicGetOptions::default())
                .await?;
            if let Some(message) = got {
                // It came just now; back with it.
                let back = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                message.delivery.nack(back).await?;
            }
            Ok(())
        })
        .await;
    match got {
        Err(Problem::Silence) => Some(Problem::Silence),
        Err(problem) if problem.is("INTERNAL_ERROR") || problem.is("NOT_FOUND") => Some(problem),
        Ok(()) | Err(_) => None,
    }
}

/// Whether this user may do its work, and the broker lets it.
async fn rights(questions: &mut Questions, names: &Names) -> Vec<Finding> {
    let written = write(&questions.url, names).await;
    let read = read(questions, names).await;
    match (written, read) {
        (Ok(true), Ok(true)) => vec![Finding::good(RIGHTS, "This user may write and read.")],
        (written, read) => [written, read]
            .into_iter()
            .filter_map(Result::err)
            .collect(),
    }
}

/// The same for one that only puts events in.
async fn right_to_write(url: &str, names: &Names) -> Vec<Finding> {
    match write(url, names).await {
        Ok(true) => vec![Finding::good(RIGHTS, "This user may write.")],
        Ok(false) => Vec::new(),
        Err(finding) => vec![finding],
    }
}

/// Publishes what leads nowhere, and so is stored nowhere: twice, as an alarm blocks a connection
/// after the first message on it. That is why it has a connection of its own.
async fn write(url: &str, names: &Names) -> Result<bool, Finding> {
    let message = Message {
        address: Address {
            exchange: names.way_in(),
            key: NOWHERE.to_owned(),
        },
        properties: BasicProperties::default(),
        body: Vec::new(),
    };
    let connection = match answered(NODE_LIMIT, connect(url, "doctor")).await {
        Ok(connection) => connection,
        Err(problem) => return Err(refuses_messages(&problem.to_string())),
    };
    let published = async {
        let channel = open_confirming(&connection).await?;
        match confirmed(&channel, &message, Routing::Mandatory).await {
            Ok(()) | Err(BrokerError::Returned(_)) => {}
            failed => return failed,
        }
        confirmed(&channel, &message, Routing::Mandatory).await
    };
    let published = tokio::time::timeout(ANSWER_LIMIT, published).await;
    close(connection).await;
    match published {
        // It came back: the way in was open to it, and no queue took it.
        Ok(Ok(()) | Err(BrokerError::Returned(_))) => Ok(true),
        // Said already: it does not exist.
        Ok(Err(BrokerError::Missing(_))) => Ok(false),
        Ok(Err(BrokerError::Refused { said, .. })) => {
            let says = format!("The broker's user may not write ({said}).");
            Err(Finding::wrong(WRITING, says, grant(names)))
        }
        Ok(Err(error)) => Err(refuses_messages(&error.to_string())),
        Err(_) => Err(refuses_messages("it does not confirm a message")),
    }
}

fn refuses_messages(why: &str) -> Finding {
    Finding::wrong(
        WRITING,
        format!("The broker takes no messages: {why}. It may have raised a memory or disk alarm."),
        "See the alarms in `rabbitmqctl status`, and free memory or disk space.",
    )
}

/// Consumes from the end of the outcomes, where nothing is.
async fn read(questions: &mut Questions, names: &Names) -> Result<bool, Finding> {
    let stream = names.outcomes();
    let read = questions
        .ask(async |channel| {
            channel.basic_qos(1, BasicQosOptions::default()).await?;
            let mut arguments = FieldTable::default();
            arguments.insert(
                "x-stream-offset".into(),
                AMQPValue::LongString("next".into()),
            );
            let options = BasicConsumeOptions::default();
            let consumer = channel
                .basic_consume(stream.as_str().into(), "".into(), options, arguments)
                .await?;
            channel
                .basic_cancel(consumer.tag(), BasicCancelOptions::default())
                .await
        })
        .await;
    match read {
        Ok(()) => Ok(true),
        // Said already: it does not exist.
        Err(problem) if problem.is("NOT_FOUND - no ") => Ok(false),
        Err(problem) if problem.is("ACCESS_REFUSED") => {
            let says = format!(
                "The broker's user may not read, as a worker has to, and whoever creates broker objects ({problem})."
            );
            Err(Finding::wrong(READING, says, grant(names)))
        }
        Err(problem) => {
            let says = format!("The stream {stream} cannot be read: {problem}.");
            let cure = "See whether a node that has it is down: `rabbitmq-streams stream_status`.";
            Err(Finding::wrong(READING, says, cure))
        }
    }
}

fn grant(names: &Names) -> String {
    let all = names.pattern();
    format!(
        "Grant it: rabbitmqctl set_permissions -p VHOST USER '{all}' '{all}' '{all}'. (Configure, write, read.) \
         Or log in as the role's own user, which `chickwork topology` makes."
    )
}

/// The first few names.
fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(MOST_NAMES)].join(", ");
    match names.len().saturating_sub(MOST_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn of_all(some: usize, count: usize) -> String {
    if some == count {
        format!("All {count}")
    } else {
        format!("{some} of {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_judged_by_its_greeting() {
        for (product, version, grade) in [
            ("RabbitMQ", "3.9.29", Grade::Wrong),
            ("RabbitMQ", "3.10.8", Grade::Good),
            ("RabbitMQ", "3.13.0-rc.2", Grade::Good),
            ("RabbitMQ", "4.2.1", Grade::Good),
            ("RabbitMQ", "5.0.0", Grade::Notice),
            ("RabbitMQ", "", Grade::Good),
            ("LavinMQ", "2.3.0", Grade::Notice),
        ] {
            let greeting = Greeting {
                product: product.to_owned(),
                version: version.to_owned(),
                cluster: None,
            };
            let finding = what_it_is(BROKER.to_owned(), &greeting);
            assert_eq!(finding.grade, grade, "{product} {version}");
        }
    }

    #[test]
    fn who_is_shut_out_is_told_which_part_of_the_address_is_wrong() {
        for (said, cure, others_will_do) in [
            (
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.",
                "guest",
                false,
            ),
            ("NOT_ALLOWED - vhost nowhere not found", "add_vhost", false),
            (
                "NOT_ALLOWED - access to vhost '/' refused for user 'chick'",
                "set_permissions",
                false,
            ),
            (
                "IO error: Connection refused (os error 111)",
                "firewall",
                true,
            ),
        ] {
            let names = Names::new("chickwork");
            let away = shut_out("rabbit:5672", &Problem::Said(said.to_owned()), &names);
            assert!(
                away.finding.cure.is_some_and(|cured| cured.contains(cure)),
                "{said}"
            );
            assert_eq!(away.others_will_do, others_will_do, "{said}");
        }
    }

    #[test]
    fn nodes_of_two_clusters_are_noticed() {
        let node = |cluster: Option<&str>| Node {
            url: String::new(),
            address: "rabbit:5672".to_owned(),
            heartbeat: 5,
            greeting: Some(Greeting {
                product: "RabbitMQ".to_owned(),
                version: "4.0.5".to_owned(),
                cluster: cluster.map(str::to_owned),
            }),
        };
        assert!(several_clusters(&[node(Some("a")), node(None), node(Some("a"))]).is_none());
        assert!(several_clusters(&[node(Some("a")), node(Some("b"))]).is_some());
    }

    #[test]
    fn missing_objects_are_no_mistake_where_the_next_process_creates_them() {
        let found = |missing: &[&str], missed: &[&str]| Objects {
            count: 3,
            equal: 3 - missing.len() - missed.len(),
            missing: missing.iter().map(|&name| name.to_owned()).collect(),
            missed: missed.iter().map(|&name| name.to_owned()).collect(),
            ..Objects::default()
        };
        for (missing, missed, declare, worst) in [
            (&[][..], &[][..], Declare::Passive, Grade::Good),
            (&["c.ask"], &[], Declare::Active, Grade::Notice),
            (&["c.ask"], &[], Declare::Passive, Grade::Wrong),
            (
                &["c.ask", "c.in"],
                &["c.letters"],
                Declare::Active,
                Grade::Notice,
            ),
            (&[], &["c.letters"], Declare::Passive, Grade::Notice),
        ] {
            let findings = found(missing, missed).findings("c", declare);
            let grade = findings.iter().map(|finding| finding.grade).max();
            assert_eq!(grade, Some(worst), "{missing:?} {missed:?} {declare:?}");
        }
    }
}
