//! The broker objects: their names, their arguments, and how they hang together. One list serves
//! the declaration at connect and the definitions file that `chickwork topology` prints.
//!
//! One exchange, one meaning: a confirmed mandatory publish proves only that *some* queue took the
//! message, so an exchange whose confirm has to prove something is bound to one queue alone.
//!
//! Delays: level n holds a message for 2^n seconds and hands it to level n-1's exchange. The bits of
//! the delay stand in the routing key, highest first, and each exchange looks at its own bit: set,
//! into the queue; not set, on to the next level. Below level 0 lies `<ns>.due`, which routes to the
//! queue that the rest of the key names. Works on any RabbitMQ from 3.10 on, without a plugin.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool_lapin::lapin;
use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};
use serde_json::{Value, json};

use super::BrokerError;
use super::users::BrokerUser;
use crate::event::BotName;
use crate::job::Settlement;
use crate::{Declare, Settings};

/// Levels of 1, 2, 4 … 2,048 s: together a little over [`Settlement::LONGEST_DELAY`].
const LEVELS: u32 = 12;
const _: () = assert!((1 << LEVELS) > Settlement::LONGEST_DELAY.as_secs());
/// Where the definitions put everything: RabbitMQ's own default.
const VHOST: &str = "/";
/// Out of reach, on every queue. Never -1: RabbitMQ 3.10 buries at the first return then.
const DELIVERY_LIMIT: i64 = 1_000_000_000;
/// A stream forgets whole segments only, so they are small; see [`super::forget`] for quiet bots.
pub(super) const SEGMENT_BYTES: i64 = 1_000_000;
/// How much the log of dead letters may hold. Letters that it has lost are found in the queue itself.
const LETTERS_BYTES: i64 = 200_000_000;
/// The memory of what was posted has to reach back this far: the longest `CHICKWORK_MAX_AGE` and a
/// little more.
const SHORTEST_OUTCOMES_KEEP: u64 = 13 * 3600;
/// Arguments that change how much is kept, or where, but break no promise.
const HARMLESS: [&str; 3] = [
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-queue-leader-locator",
];

/// The names of the objects of one namespace.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    namespace: String,
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    fn object(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// A regular expression that matches all of them and no others, for RabbitMQ's permissions.
    pub(super) fn pattern(&self) -> String {
        format!("^{}", escaped(&self.object("")))
    }

    /// The same for these objects alone.
    pub(super) fn exactly(&self, objects: &[String]) -> String {
        if objects.is_empty() {
            return "^$".to_owned();
        }
        let prefix = self.object("");
        let own = objects.iter().map(|object| {
            let name = object.strip_prefix(&prefix);
            escaped(name.expect("`Names` makes the names of one namespace"))
        });
        format!("{}({})$", self.pattern(), own.collect::<Vec<_>>().join("|"))
    }

    /// The way in: bound to the ask queue alone.
    pub(crate) fn way_in(&self) -> String {
        self.object("in")
    }

    /// Copies, for the archive and for guests.
    pub(crate) fn events(&self) -> String {
        self.object("events")
    }

    pub(crate) fn ask(&self) -> String {
        self.object("ask")
    }

    /// The exchange of replies; bound to each bot's reply queue by the bot's name.
    pub(crate) fn post_exchange(&self) -> String {
        self.object("post")
    }

    pub(crate) fn post(&self, bot: &BotName) -> String {
        self.object(&format!("post.{bot}"))
    }

    /// Both the exchange and the queue of what was given up.
    pub(crate) fn dead(&self) -> String {
        self.object("dead")
    }

    /// Whoever goes through the queue of dead letters has this queue, exclusively, for as long as
    /// their connection lives: what they hold is not counted as waiting.
    pub(crate) fn dead_pass(&self) -> String {
        self.object("dead.pass")
    }

    /// Both the exchange and the stream of the log of dead letters.
    pub(crate) fn letters(&self) -> String {
        self.object("letters")
    }

    pub(crate) fn archive(&self) -> String {
        self.object("archive")
    }

    /// Both the exchange and the stream.
    pub(crate) fn outcomes(&self) -> String {
        self.object("outcomes")
    }

    /// Where a delay ends.
    pub(super) fn due(&self) -> String {
        self.object("due")
    }

    fn level(&self, level: u32) -> String {
        self.object(&format!("delay.{level}"))
    }

    /// The queues of what is put off.
    pub(super) fn levels(&self) -> impl Iterator<Item = String> {
        (0..LEVELS).map(|level| self.level(level))
    }

    /// The exchange and routing key that bring a message to a queue after a delay.
    pub(crate) fn delayed(&self, delay: Duration, destination: &Destination) -> (String, String) {
        let seconds = crate::whole_seconds(delay).as_secs();
        let exchange = match seconds.checked_ilog2() {
            Some(level) => self.level(level),
            None => self.due(),
        };
        let bits: String = (0..LEVELS)
            .rev()
            .map(|bit| format!("{}.", seconds >> bit & 1))
            .collect();
        (exchange, format!("{bits}{}", destination.key()))
    }
}

/// A name as a regular expression: of all the characters that names may have, only the dot means
/// something there.
fn escaped(name: &str) -> String {
    name.replace('.', "\\.")
}

/// A queue that jobs are put off for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    Ask,
    Post(BotName),
}

impl Destination {
    pub(super) fn key(&self) -> String {
        match self {
            Self::Ask => "ask".to_owned(),
            Self::Post(bot) => format!("post.{bot}"),
        }
    }

    pub(super) fn of_key(key: &str) -> Option<Self> {
        match key.strip_prefix("post.") {
            Some(bot) => BotName::new(bot).ok().map(Self::Post),
            None => (key == "ask").then_some(Self::Ask),
        }
    }
}

/// The objects and users of a deployment, in the format of RabbitMQ's definitions import.
pub(crate) fn definitions(settings: &Settings, users: &[BrokerUser]) -> Value {
    let names = Names::new(&settings.namespace);
    let topology = Topology::new(&names, &settings.bots, settings);
    let mut definitions = topology.definitions();
    if !users.is_empty() {
        let permission = |user: &BrokerUser| user.permission(&names, &settings.bots, VHOST);
        definitions["users"] = users.iter().map(|user| user.definition(&names)).collect();
        definitions["permissions"] = users.iter().map(permission).collect();
    }
    definitions
}

/// An exchange or a queue, to be looked at on its own.
pub(super) enum Object<'a> {
    Exchange(&'a Exchange),
    Queue(&'a QueueObject),
}

pub(super) struct Exchange {
    name: String,
    kind: ExchangeKind,
}

pub(super) struct QueueObject {
    name: String,
    holds: Holds,
    arguments: Vec<(&'static str, Argument)>,
}

/// What a queue is there for, and so what must not be lost with its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Jobs and records.
    Anything,
    /// What was posted, which must not be forgotten too soon.
    Memory,
    /// What can be found out in another way.
    Log,
}

#[derive(Clone)]
enum Argument {
    Text(String),
    Number(i64),
    Flag(bool),
}

enum Target {
    Exchange(String),
    Queue(String),
}

struct Binding {
    source: String,
    target: Target,
    key: String,
}

/// Everything that this deployment needs of a broker.
pub(crate) struct Topology {
    exchanges: Vec<Exchange>,
    queues: Vec<QueueObject>,
    bindings: Vec<Binding>,
    /// The name of the objects that a deployment can do without: definitions and permissions that
    /// were made for an older release know no log of dead letters.
    optional: String,
    /// Whether they could not be had when last looked for.
    without_optional: AtomicBool,
}

impl Topology {
    pub(crate) fn new(names: &Names, bots: &[BotName], settings: &Settings) -> Self {
        let mut topology = Self {
            exchanges: Vec::new(),
            queues: Vec::new(),
            bindings: Vec::new(),
            optional: names.letters(),
            without_optional: AtomicBool::new(false),
        };
        topology.jobs(names, bots);
        topology.delays(names);
        topology.records(names, settings);
        topology
    }

    fn jobs(&mut self, names: &Names, bots: &[BotName]) {
        self.exchange(names.dead(), ExchangeKind::Fanout);
        self.queue(names.dead(), quorum());
        self.bind(names.dead(), Target::Queue(names.dead()), "");
        self.exchange(names.letters(), ExchangeKind::Fanout);
        let log = [("x-max-length-bytes", Argument::Number(LETTERS_BYTES))];
        self.queues.push(QueueObject {
            holds: Holds::Log,
            name: names.letters(),
            arguments: stream(log),
        });
        self.bind(names.letters(), Target::Queue(names.letters()), "");

        let job_queue = || {
            let mut arguments = quorum();
            arguments.extend(dead_lettering(names.dead()));
            arguments
        };
        self.exchange(names.due(), ExchangeKind::Topic);
        let due_key = |destination: &Destination| {
            format!("{}{}", "*.".repeat(LEVELS as usize), destination.key())
        };

        self.exchange(names.way_in(), ExchangeKind::Direct);
        self.queue(names.ask(), job_queue());
        self.bind(names.way_in(), Target::Queue(names.ask()), "ask");
        self.bind(
            names.due(),
            Target::Queue(names.ask()),
            &due_key(&Destination::Ask),
        );

        self.exchange(names.post_exchange(), ExchangeKind::Direct);
        for bot in bots {
            let mut arguments = job_queue();
            arguments.push(("x-single-active-consumer", Argument::Flag(true)));
            self.queue(names.post(bot), arguments);
            self.bind(
                names.post_exchange(),
                Target::Queue(names.post(bot)),
                bot.as_str(),
            );
            self.bind(
                names.due(),
                Target::Queue(names.post(bot)),
                &due_key(&Destination::Post(bot.clone())),
            );
        }
    }

    fn delays(&mut self, names: &Names) {
        for level in 0..LEVELS {
            let next = if level == 0 {
                names.due()
            } else {
                names.level(level - 1)
            };
            self.exchange(names.level(level), ExchangeKind::Topic);
            let mut arguments = quorum();
            arguments.push(("x-message-ttl", Argument::Number(1_000 << level)));
            arguments.extend(dead_lettering(next.clone()));
            self.queue(names.level(level), arguments);
            let higher_bits = "*.".repeat((LEVELS - 1 - level) as usize);
            self.bind(
                names.level(level),
                Target::Queue(names.level(level)),
                &format!("{higher_bits}1.#"),
            );
            self.bind(
                names.level(level),
                Target::Exchange(next),
                &format!("{higher_bits}0.#"),
            );
        }
    }

    fn records(&mut self, names: &Names, settings: &Settings) {
        self.exchange(names.events(), ExchangeKind::Topic);
        if !settings.archive_keep.is_zero() {
            self.queue(names.archive(), stream([max_age(settings.archive_keep)]));
            self.bind(names.events(), Target::Queue(names.archive()), "#");
        }
        self.exchange(names.outcomes(), ExchangeKind::Fanout);
        self.queues.push(QueueObject {
            holds: Holds::Memory,
            name: names.outcomes(),
            arguments: stream([max_age(settings.outcomes_keep())]),
        });
        self.bind(names.outcomes(), Target::Queue(names.outcomes()), "");
    }

    fn exchange(&mut self, name: String, kind: ExchangeKind) {
        self.exchanges.push(Exchange { name, kind });
    }

    fn queue(&mut self, name: String, arguments: Vec<(&'static str, Argument)>) {
        self.queues.push(QueueObject {
            holds: Holds::Anything,
            name,
            arguments,
        });
    }

    fn bind(&mut self, source: String, target: Target, key: &str) {
        self.bindings.push(Binding {
            source,
            target,
            key: key.to_owned(),
        });
    }

    /// Everything that has a name.
    pub(super) fn objects(&self) -> impl Iterator<Item = Object<'_>> {
        let exchanges = self.exchanges.iter().map(Object::Exchange);
        exchanges.chain(self.queues.iter().map(Object::Queue))
    }

    /// Whether a deployment works without the object of this name, if with less comfort.
    pub(super) fn is_optional(&self, name: &str) -> bool {
        name == self.optional
    }

    /// Whether there is a log of dead letters, as far as is known.
    pub(super) fn has_letters(&self) -> bool {
        !self.without_optional.load(Ordering::Relaxed)
    }

    /// Takes note that the log of dead letters is missing after all.
    pub(super) fn miss_letters(&self) {
        self.without_optional.store(true, Ordering::Relaxed);
    }

    /// Whether it is the log of dead letters that the broker does not let us have.
    fn can_do_without(&self, name: &str, error: &lapin::Error) -> bool {
        let said = said(error);
        let Some(cure) = cure(&said).filter(|_| name == self.optional) else {
            return false;
        };
        if is_passing(&said) {
            // Until the next connection, which finds it again.
            log::info!("{name} cannot be used yet ({said})");
        } else if !self.without_optional.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{name} cannot be used ({said}), so dead letters are listed by looking through \
                 their queue: {cure}"
            );
        }
        true
    }

    /// Creates what is missing, or checks that everything is there.
    pub(crate) async fn declare(
        &self,
        connection: &Connection,
        declare: Declare,
    ) -> Result<(), BrokerError> {
        let passive = match declare {
            Declare::Active => false,
            Declare::Passive => true,
            Declare::Nothing => return Ok(()),
        };
        let mut channel = connection.create_channel().await?;
        let mut complete = true;
        for exchange in &self.exchanges {
            let options = ExchangeDeclareOptions {
                passive,
                durable: true,
                ..Default::default()
            };
            let declared = channel
                .exchange_declare(
                    exchange.name.as_str().into(),
                    exchange.kind.clone(),
                    options,
                    FieldTable::default(),
                )
                .await;
            match declared {
                Ok(()) => {}
                Err(error) if self.can_do_without(&exchange.name, &error) => {
                    complete = false;
                    channel = connection.create_channel().await?;
                }
                Err(error) => return Err(unusable("exchange", &exchange.name, &error)),
            }
        }
        for queue in &self.queues {
            let options = QueueDeclareOptions {
                passive,
                durable: true,
                ..Default::default()
            };
            let declared = channel
                .queue_declare(queue.name.as_str().into(), options, queue.table())
                .await;
            match declared {
                Ok(_) => {}
                Err(error) if is_harmless(&said(&error), queue.holds) => {
                    log::warn!(
                        queue = queue.name;
                        "the queue keeps its own arguments, which do no harm: {}", said(&error)
                    );
                    // The refusal has closed the channel.
                    channel = connection.create_channel().await?;
                }
                Err(error) if self.can_do_without(&queue.name, &error) => {
                    complete = false;
                    channel = connection.create_channel().await?;
                }
                Err(error) => return Err(unusable("queue", &queue.name, &error)),
            }
        }
        if passive {
            self.without_optional.store(!complete, Ordering::Relaxed);
            // AMQP offers no way to look at bindings.
            return Ok(());
        }
        for binding in &self.bindings {
            let (source, key) = (binding.source.as_str(), binding.key.as_str());
            if !complete && source == self.optional {
                continue;
            }
            match &binding.target {
                Target::Queue(queue) => {
                    let options = QueueBindOptions::default();
                    let bound = channel
                        .queue_bind(
                            queue.as_str().into(),
                            source.into(),
                            key.into(),
                            options,
                            FieldTable::default(),
                        )
                        .await;
                    match bound {
                        Ok(()) => {}
                        Err(error) if self.can_do_without(queue, &error) => {
                            complete = false;
                            channel = connection.create_channel().await?;
                        }
                        Err(error) => return Err(unusable("binding of queue", queue, &error)),
                    }
                }
                Target::Exchange(exchange) => {
                    let options = ExchangeBindOptions::default();
                    channel
                        .exchange_bind(
                            exchange.as_str().into(),
                            source.into(),
                            key.into(),
                            options,
                            FieldTable::default(),
                        )
                        .await
                        .map_err(|error| unusable("binding of exchange", exchange, &error))?;
                }
            }
        }
        self.without_optional.store(!complete, Ordering::Relaxed);
        // Not waited for: the objects are there whatever becomes of this channel.
        let _ =
            tokio::time::timeout(super::CLOSE_LIMIT, channel.close(200, "declared".into())).await;
        Ok(())
    }

    /// The objects in the format of RabbitMQ's definitions import.
    fn definitions(&self) -> Value {
        json!({
            // A node that finds definitions at its first start makes no virtual host of its own.
            "vhosts": [{ "name": VHOST }],
            "exchanges": self.exchanges.iter().map(|exchange| json!({
                "name": exchange.name, "vhost": VHOST, "type": kind_name(&exchange.kind),
                "durable": true, "auto_delete": false, "internal": false, "arguments": {},
            })).collect::<Vec<_>>(),
            "queues": self.queues.iter().map(|queue| json!({
                "name": queue.name, "vhost": VHOST, "durable": true, "auto_delete": false,
                "arguments": queue.json(),
            })).collect::<Vec<_>>(),
            "bindings": self.bindings.iter().map(|binding| {
                let (destination, kind) = match &binding.target {
                    Target::Queue(queue) => (queue, "queue"),
                    Target::Exchange(exchange) => (exchange, "exchange"),
                };
                json!({
                    "source": binding.source, "vhost": VHOST, "destination": destination,
                    "destination_type": kind, "routing_key": binding.key, "arguments": {},
                })
            }).collect::<Vec<_>>(),
        })
    }
}

impl Object<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Exchange(exchange) => &exchange.name,
            Self::Queue(queue) => &queue.name,
        }
    }

    /// The word for it in sentences.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Exchange(_) => "exchange",
            Self::Queue(_) => "queue",
        }
    }

    /// Whether messages can be fetched from it one by one: not from a stream, and not where a
    /// single consumer is all there may be.
    pub(super) fn may_be_fetched_from(&self) -> bool {
        match self {
            Self::Exchange(_) => false,
            Self::Queue(queue) => !queue.arguments.iter().any(|(name, value)| match value {
                Argument::Text(kind) => *name == "x-queue-type" && kind == "stream",
                Argument::Flag(single) => *name == "x-single-active-consumer" && *single,
                Argument::Number(_) => false,
            }),
        }
    }

    /// Whether these words refuse it for arguments that differ and break no promise.
    pub(super) fn is_harmless(&self, said: &str) -> bool {
        match self {
            Self::Exchange(_) => false,
            Self::Queue(queue) => is_harmless(said, queue.holds),
        }
    }

    /// Whether it is there; how much it holds and how many consumers it has, where it is a queue.
    /// An error closes the channel.
    pub(super) async fn find(&self, channel: &Channel) -> lapin::Result<(u32, u32)> {
        self.declare(channel, true).await
    }

    /// Whether it is as it would be created. It must be there, else this creates it. An error
    /// closes the channel.
    pub(super) async fn compare(&self, channel: &Channel) -> lapin::Result<()> {
        self.declare(channel, false).await.map(drop)
    }

    async fn declare(&self, channel: &Channel, passive: bool) -> lapin::Result<(u32, u32)> {
        match self {
            Self::Exchange(exchange) => {
                let options = ExchangeDeclareOptions {
                    passive,
                    durable: true,
                    ..Default::default()
                };
                let (name, kind) = (exchange.name.as_str().into(), exchange.kind.clone());
                channel
                    .exchange_declare(name, kind, options, FieldTable::default())
                    .await?;
                Ok((0, 0))
            }
            Self::Queue(queue) => {
                let options = QueueDeclareOptions {
                    passive,
                    durable: true,
                    ..Default::default()
                };
                let declared = channel
                    .queue_declare(queue.name.as_str().into(), options, queue.table())
                    .await?;
                Ok((declared.message_count(), declared.consumer_count()))
            }
        }
    }
}

impl QueueObject {
    fn table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, argument) in &self.arguments {
            let value = match argument {
                Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
                Argument::Number(number) => AMQPValue::LongLongInt(*number),
                Argument::Flag(flag) => AMQPValue::Boolean(*flag),
            };
            table.insert((*name).into(), value);
        }
        table
    }

    fn json(&self) -> Value {
        let arguments = self.arguments.iter().map(|(name, argument)| {
            let value = match argument {
                Argument::Text(text) => json!(text),
                Argument::Number(number) => json!(number),
                Argument::Flag(flag) => json!(flag),
            };
            ((*name).to_owned(), value)
        });
        Value::Object(arguments.collect())
    }
}

fn kind_name(kind: &ExchangeKind) -> &str {
    match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Headers => "headers",
        ExchangeKind::Topic => "topic",
        ExchangeKind::Custom(name) => name,
    }
}

fn quorum() -> Vec<(&'static str, Argument)> {
    vec![
        ("x-queue-type", Argument::Text("quorum".to_owned())),
        ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
    ]
}

/// At-least-once needs all three; with one missing it silently is at-most-once.
fn dead_lettering(exchange: String) -> [(&'static str, Argument); 3] {
    [
        ("x-dead-letter-exchange", Argument::Text(exchange)),
        (
            "x-dead-letter-strategy",
            Argument::Text("at-least-once".to_owned()),
        ),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ]
}

fn stream(limit: [(&'static str, Argument); 1]) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-queue-type", Argument::Text("stream".to_owned())),
        (
            "x-stream-max-segment-size-bytes",
            Argument::Number(SEGMENT_BYTES),
        ),
    ];
    arguments.extend(limit);
    arguments
}

fn max_age(keep: Duration) -> (&'static str, Argument) {
    let seconds = keep.as_secs().max(1);
    ("x-max-age", Argument::Text(format!("{seconds}s")))
}

/// A look at a queue, which changes nothing and needs no right. A broker that has no time to count says
/// after a quarter of a second that there is nothing; so that is asked again before it is believed.
pub(super) async fn look(channel: &Channel, queue: &str) -> lapin::Result<lapin::Queue> {
    const PROMPT: Duration = Duration::from_millis(200);
    const TRIES: u32 = 3;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let mut tries = 0;
    loop {
        tries += 1;
        let asked = Instant::now();
        let looked = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await?;
        if looked.message_count() > 0 || asked.elapsed() < PROMPT || tries == TRIES {
            return Ok(looked);
        }
    }
}

/// What the broker said, without lapin's decoration.
pub(super) fn said(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            "what answers there does not speak AMQP as RabbitMQ does".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A refusal for other arguments that names only harmless ones. RabbitMQ names the first that differs.
fn is_harmless(said: &str, holds: Holds) -> bool {
    let differs = |argument: &str| said.contains(&format!("arg '{argument}'"));
    // One without any limit is as well no stream at all.
    let is_limited = !said.contains("current is none");
    let in_log = holds == Holds::Log && differs("x-max-length-bytes") && is_limited;
    let harmless = said.contains("PRECONDITION_FAILED")
        && (in_log || HARMLESS.iter().any(|name| differs(name)));
    if harmless && holds == Holds::Memory && differs("x-max-age") {
        // "… received '604800s' but current is '60s'"
        let current = said.split("but current is").nth(1);
        let value = current.and_then(|current| current.split('\'').nth(1));
        let seconds = value.and_then(|value| value.strip_suffix('s')?.parse().ok());
        return seconds.is_some_and(|seconds: u64| seconds >= SHORTEST_OUTCOMES_KEEP);
    }
    harmless
}

/// A refusal for a node that is away, though RabbitMQ calls it NOT_FOUND: the object is there.
fn is_passing(said: &str) -> bool {
    said.contains("down or inaccessible")
}

/// What a person does about an object that the broker refuses in these words.
fn cure(said: &str) -> Option<&'static str> {
    if said.contains("PRECONDITION_FAILED") {
        Some(
            "it exists with other arguments: empty and delete it, or set another CHICKWORK_NAMESPACE",
        )
    } else if is_passing(said) {
        Some("its node is away: it can be used again once that is back")
    } else if said.contains("NOT_FOUND") {
        Some(
            "it does not exist: import the output of `chickwork topology`, or set CHICKWORK_DECLARE=active",
        )
    } else if said.contains("ACCESS_REFUSED") {
        Some(
            "the broker user may not configure it: grant the right, or set CHICKWORK_DECLARE=passive",
        )
    } else {
        None
    }
}

/// What a person does about a user whom the broker refuses in these words. A publish needs the right to
/// write to its exchange, a consumer the right to read its queue; RabbitMQ 3.10 does not say which.
pub(super) fn cure_of_refusal(said: &str) -> Option<&'static str> {
    if said.starts_with("NOT_ALLOWED - access to vhost") {
        return Some("let it use the virtual host: rabbitmqctl set_permissions");
    }
    let refused = said.strip_prefix("ACCESS_REFUSED")?;
    Some(if refused.contains("Login was refused") {
        "correct the user and the password in CHICKWORK_QUEUE"
    } else if refused.contains("access to exchange") {
        "grant it the right to write to this exchange; the users that `chickwork topology` makes have what their roles need"
    } else if refused.contains("access to queue") {
        "grant it the right to read this queue; the users that `chickwork topology` makes have what their roles need"
    } else {
        "grant it what it lacks; the users that `chickwork topology` makes have what their roles need"
    })
}

fn unusable(kind: &str, name: &str, error: &lapin::Error) -> BrokerError {
    let said = said(error);
    let Some(cure) = cure(&said) else {
        return BrokerError::Unreachable(said);
    };
    BrokerError::Object {
        object: format!("{kind} {name}"),
        cure,
        said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_enters_at_its_highest_bit_and_carries_its_bits_in_the_key() {
        let names = Names::new("t");
        let after = |seconds| names.delayed(Duration::from_secs(seconds), &Destination::Ask);
        assert_eq!(
            after(0),
            ("t.due".to_owned(), "0.0.0.0.0.0.0.0.0.0.0.0.ask".to_owned())
        );
        assert_eq!(
            after(1),
            (
                "t.delay.0".to_owned(),
                "0.0.0.0.0.0.0.0.0.0.0.1.ask".to_owned()
            )
        );
        assert_eq!(
            after(10),
            (
                "t.delay.3".to_owned(),
                "0.0.0.0.0.0.0.0.1.0.1.0.ask".to_owned()
            )
        );
        let longest = names.delayed(
            Duration::from_secs(9_999),
            &Destination::Post(BotName::default()),
        );
        assert_eq!(
            longest,
            (
                "t.delay.11".to_owned(),
                "1.1.1.0.0.0.0.1.0.0.0.0.post.bot".to_owned()
            )
        );
    }

    #[test]
    fn a_stream_that_is_kept_for_another_time_does_no_harm_unless_it_forgets_posts() {
        let said = |current: &str| {
            format!(
                "PRECONDITION_FAILED - inequivalent arg 'x-max-age' for queue 'q' in vhost '/': received '604800s' but current is '{current}'"
            )
        };
        assert!(is_harmless(&said("60s"), Holds::Anything));
        assert!(is_harmless(&said("86400s"), Holds::Memory));
        assert!(!is_harmless(&said("60s"), Holds::Memory));
        assert!(
            !is_harmless(&said("7D"), Holds::Memory),
            "what cannot be read is not trusted"
        );
        assert!(!is_harmless(
            "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue",
            Holds::Anything
        ));
        let shorter = "PRECONDITION_FAILED - inequivalent arg 'x-max-length-bytes' for queue";
        assert!(is_harmless(shorter, Holds::Log));
        assert!(!is_harmless(shorter, Holds::Anything));
        let no_stream =
            format!("{shorter}: received the value '2' of type 'long' but current is none");
        assert!(!is_harmless(&no_stream, Holds::Log));
    }

    #[test]
    fn who_is_refused_is_told_which_right_is_missing() {
        for (said, cure) in [
            (
                "ACCESS_REFUSED - access to exchange 't.in' in vhost '/' refused for user 'chick'",
                "write to this exchange",
            ),
            (
                "ACCESS_REFUSED - write access to exchange 't.in' in vhost '/' refused for user 'chick'",
                "write to this exchange",
            ),
            (
                "ACCESS_REFUSED - access to queue 't.ask' in vhost '/' refused for user 'chick'",
                "read this queue",
            ),
            (
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.",
                "password in CHICKWORK_QUEUE",
            ),
            (
                "NOT_ALLOWED - access to vhost '/' refused for user 'chick'",
                "set_permissions",
            ),
        ] {
            let told = cure_of_refusal(said);
            assert!(told.is_some_and(|told| told.contains(cure)), "{said}");
        }
        assert_eq!(
            cure_of_refusal("NOT_ALLOWED - vhost nowhere not found"),
            None
        );
        assert_eq!(cure_of_refusal("CONNECTION_FORCED - broker forced"), None);
    }

    #[test]
    fn a_bot_called_ask_gets_no_events() {
        let ask = BotName::new("ask").expect("a name");
        let key = Names::new("t")
            .delayed(Duration::ZERO, &Destination::Post(ask))
            .1;
        assert_eq!(
            key.split('.').count(),
            LEVELS as usize + 2,
            "so it cannot match the ask queue's binding"
        );
    }
}
