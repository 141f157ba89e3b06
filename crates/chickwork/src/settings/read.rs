//! Finding a setting's value: a flag, else the environment, else the default; a secret also in a file
//! that a flag or a variable names. Mistakes are collected, so that all of them can be told at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::settings::{ALL, About, Role, Setting};

/// A file with a secret is not larger than this, in bytes.
const LARGEST_SECRET_FILE: u64 = 64 * 1024;
/// A mistaken value is shown up to this length, in characters.
const LONGEST_SHOWN: usize = 60;

/// What the person who started the process has said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// Values of flags, by the flag's name.
    pub(crate) flags: BTreeMap<String, String>,
    /// The environment, as far as it may concern us.
    pub(crate) environment: BTreeMap<String, OsString>,
}

impl Given {
    /// The variables in `environment` that may be meant for us.
    pub(crate) fn relevant(
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<String, OsString> {
        environment
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| {
                name == "RUST_LOG" || OURS.iter().any(|prefix| name.starts_with(prefix))
            })
            .collect()
    }

    /// Whether a value for the setting was given, however wrong.
    pub(crate) fn says(&self, about: &About) -> bool {
        let flag = self.flags.contains_key(&about.flag());
        let variable = self.environment.get(about.name);
        flag || variable.is_some_and(|value| about.may_be_empty || !value.is_empty())
    }

    /// Where the setting is given, if all that is given is empty.
    fn empty(&self, about: &About) -> Option<String> {
        let flags = [about.flag(), about.file_flag()];
        let flag = flags
            .iter()
            .find(|flag| self.flags.contains_key(*flag))
            .map(|flag| format!("--{flag}"));
        let variables = [about.name.to_owned(), about.file_name()];
        let mut variables = variables.into_iter();
        flag.or_else(|| variables.find(|name| self.environment.contains_key(name)))
    }

    /// The file that a secret is read from, if it is one.
    pub(crate) fn secret_file(&self, about: &About) -> Option<PathBuf> {
        let flag = self.flags.get(&about.file_flag()).map(PathBuf::from);
        let variable = || self.environment.get(&about.file_name()).map(PathBuf::from);
        let given = flag.or_else(|| (!self.says(about)).then(variable).flatten());
        given.filter(|path| about.secret && !path.as_os_str().is_empty())
    }

    /// Sentences about variables that look like ours and are not.
    pub(crate) fn unknown_variables(&self) -> Vec<String> {
        self.environment
            .keys()
            .filter_map(|name| unknown(name))
            .collect()
    }
}

/// How our variables begin.
const OURS: [&str; 3] = ["CHICKWORK_", "CHATWORK_", "SIMSIMI_"];

fn unknown(name: &str) -> Option<String> {
    if ALL
        .iter()
        .any(|about| about.name == name || (about.secret && about.file_name() == name))
    {
        return None;
    }
    // Kubernetes puts `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT` and the like into every container.
    if name.contains("_SERVICE_") || name.ends_with("_PORT") || name.contains("_PORT_") {
        return None;
    }
    if let Some(about) = ALL.iter().find(|about| about.file_name() == name) {
        return Some(format!(
            "{name} is ignored: {} is no secret and is not read from a file",
            about.name
        ));
    }
    let nearest = ALL
        .iter()
        .map(|about| (distance(about.name, name), about.name))
        .min()
        .filter(|(distance, _)| *distance <= name.len() / 3);
    Some(match nearest {
        Some((_, nearest)) => {
            format!("{name} is ignored: there is no such setting; did you mean {nearest}?")
        }
        None => format!("{name} is ignored: there is no such setting"),
    })
}

/// How many letters have to be changed, put in or left out to make one word of the other.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, r) in right.bytes().enumerate() {
            let changed = diagonal + usize::from(l != r);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistakes(Vec<Mistake>);

/// Something that is wrong with one of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The setting's name.
    pub(crate) setting: &'static str,
    /// What kind of mistake.
    pub(crate) kind: Kind,
    /// A sentence that says what is wrong, with a hint where one is likely.
    pub(crate) says: String,
}

/// In what way a setting is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It has to be set and is not.
    Missing,
    /// It is set both directly and by a file.
    Twice,
    /// The file with it is of no use.
    File,
    /// The value is not one.
    Value,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (subject, verb) = if self.0.len() == 1 {
            ("setting", "is")
        } else {
            ("settings", "are")
        };
        write!(f, "{} {subject} {verb} wrong:", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|mistake| write!(f, "\n  {}", mistake.says))
    }
}

impl std::error::Error for Mistakes {}

/// Reads the settings of some roles and collects the mistakes. What it hands out is `None` where there
/// was one; [`Reader::finish`] tells them all.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    given: &'a Given,
    roles: &'a [Role],
    mistakes: Vec<Mistake>,
}

/// A value and where it was found.
struct Found {
    text: String,
    origin: String,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(given: &'a Given, roles: &'a [Role]) -> Self {
        Self {
            given,
            roles,
            mistakes: Vec::new(),
        }
    }

    /// The value, or the default.
    pub(crate) fn get<T>(&mut self, setting: &Setting<T>) -> Option<T> {
        let default = setting.about.default_for(self.roles);
        match self.find(&setting.about)? {
            Some(found) => self.parse(setting, &found),
            None => {
                (setting.parse)(default.expect("settings that are read with `get` have a default"))
                    .ok()
            }
        }
    }

    /// The value, which has to be set.
    pub(crate) fn require<T>(&mut self, setting: &Setting<T>) -> Option<T> {
        match self.find(&setting.about)? {
            Some(found) => self.parse(setting, &found),
            None => {
                let About { name, help, .. } = setting.about;
                let or_file = if setting.about.secret {
                    format!(" (nor {})", setting.about.file_name())
                } else {
                    String::new()
                };
                let says = format!("{name} is not set{or_file}: {help}");
                self.mistaken(name, Kind::Missing, says);
                None
            }
        }
    }

    /// The value if it is set, whatever the default; the outer `None` is a mistake.
    pub(crate) fn optional<T>(&mut self, setting: &Setting<T>) -> Option<Option<T>> {
        match self.find(&setting.about)? {
            Some(found) => self.parse(setting, &found).map(Some),
            None => Some(None),
        }
    }

    /// The same where a value that is set but empty is a slip with consequences, and no way to say that
    /// there is none.
    pub(crate) fn deliberate<T>(&mut self, setting: &Setting<T>) -> Option<Option<T>> {
        let value = self.optional(setting)?;
        if value.is_none()
            && let Some(origin) = self.given.empty(&setting.about)
        {
            let says = format!("{origin} is set but empty; give it a value, or unset it");
            self.mistaken(setting.about.name, Kind::Value, says);
            return None;
        }
        Some(value)
    }

    /// What was read, unless there was a mistake.
    pub(crate) fn finish<T>(self, read: Option<T>) -> Result<T, Mistakes> {
        match read {
            Some(read) if self.mistakes.is_empty() => Ok(read),
            _ => Err(Mistakes(self.mistakes)),
        }
    }

    /// What was wrong so far, for whoever goes on without it.
    pub(crate) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }

    fn parse<T>(&mut self, setting: &Setting<T>, found: &Found) -> Option<T> {
        (setting.parse)(&found.text)
            .map_err(|error| {
                let origin = &found.origin;
                let says = if setting.about.secret {
                    format!("{origin}: {error}")
                } else {
                    format!("{origin}={}: {error}", shown(&found.text))
                };
                self.mistaken(setting.about.name, Kind::Value, says);
            })
            .ok()
    }

    fn mistaken(&mut self, setting: &'static str, kind: Kind, says: String) {
        let mistake = Mistake {
            setting,
            kind,
            says,
        };
        // A setting may be read more than once, and be wrong each time.
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    /// The text of the value if there is one; the outer `None` is a mistake. Flags win over the
    /// environment as a whole: a flag with a value and a variable with a file do not contradict.
    fn find(&mut self, about: &About) -> Option<Option<Found>> {
        debug_assert!(
            about.concerns(self.roles),
            "{} is read by {:?}, who have no business to",
            about.name,
            self.roles
        );
        let flags = [about.flag(), about.file_flag()].map(|flag| {
            let value = self.given.flags.get(&flag).map(OsString::from);
            value.map(|value| (format!("--{flag}"), value))
        });
        let variables = [about.name.to_owned(), about.file_name()].map(|name| {
            let value = self.given.environment.get(&name).cloned();
            value.map(|value| (name, value))
        });
        for [value, file] in [flags, variables] {
            let is_set = |(_, value): &(String, OsString)| !value.is_empty();
            let value = value.filter(|value| about.may_be_empty || is_set(value));
            let file = file.filter(|file| about.secret && is_set(file));
            let found = match (value, file) {
                (None, None) => continue,
                (Some((origin, _)), Some((file_origin, _))) => {
                    let says = format!("{origin} and {file_origin} are both set; keep one");
                    Err((Kind::Twice, says))
                }
                (Some((origin, value)), None) => value
                    .into_string()
                    .map_err(|_| (Kind::Value, format!("{origin}: is not UTF-8")))
                    .map(|text| Found { text, origin }),
                (None, Some((origin, path))) => secret_file(Path::new(&path))
                    .map_err(|error| {
                        let path = Path::new(&path).display();
                        (Kind::File, format!("{origin}={path}: {error}"))
                    })
                    .map(|text| Found { text, origin }),
            };
            return match found {
                Ok(found) => Some(Some(found.trimmed(about))),
                Err((kind, says)) => {
                    self.mistaken(about.name, kind, says);
                    None
                }
            };
        }
        Some(None)
    }
}

impl Found {
    /// Without white space around it, which is never meant; a text to be said stays as it is.
    fn trimmed(self, about: &About) -> Self {
        if about.may_be_empty {
            return self;
        }
        Self {
            text: self.text.trim().to_owned(),
            ..self
        }
    }
}

/// The secret in a file.
fn secret_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST_SECRET_FILE + 1).read_to_string(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > LARGEST_SECRET_FILE {
        return Err("is too large for a secret".to_owned());
    }
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(secret.to_owned())
}

/// A mistaken value as it can stand in a message.
fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(LONGEST_SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().count() > LONGEST_SHOWN {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::settings::{
        API_TOKEN, CONCURRENCY, FALLBACK, INGRESS_BROKER_PASSWORD, IngressSettings, LISTEN,
        LoggingSettings, PolicySettings, ProcessSettings, SIMSIMI_LANG, WEBHOOK_TOKEN,
        WorkerSettings,
    };

    const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const EVERYBODY: &[Role] = &[
        Role::Ingress,
        Role::Worker,
        Role::Dev,
        Role::Sandbox,
        Role::Send,
        Role::Healthcheck,
        Role::Topology,
        Role::Operator,
        Role::Status,
    ];

    fn given(flags: &[(&str, &str)], environment: &[(&str, &str)]) -> Given {
        let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        Given {
            flags: owned(flags),
            environment: owned(environment)
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
        }
    }

    fn read<T>(given: &Given, read: impl Fn(&mut Reader<'_>) -> Option<T>) -> Result<T, String> {
        let mut reader = Reader::new(given, EVERYBODY);
        let value = read(&mut reader);
        reader
            .finish(value)
            .map_err(|mistakes| mistakes.to_string())
    }

    fn file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(content.as_bytes())
            .expect("room for a secret");
        file
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_default() {
        let port =
            |given: &Given| read(given, |reader| reader.get(&LISTEN)).map(|address| address.port());
        assert_eq!(port(&given(&[], &[])), Ok(8080));
        assert_eq!(
            port(&given(&[], &[("CHICKWORK_LISTEN", "0.0.0.0:1")])),
            Ok(1)
        );
        assert_eq!(
            port(&given(
                &[("listen", "0.0.0.0:2")],
                &[("CHICKWORK_LISTEN", "0.0.0.0:1")]
            )),
            Ok(2)
        );
        assert_eq!(
            port(&given(&[], &[("CHICKWORK_LISTEN", " 0.0.0.0:1\n")])),
            Ok(1)
        );
    }

    #[test]
    fn empty_is_not_set_except_where_it_is_a_value() {
        let empty = given(
            &[],
            &[
                ("CHICKWORK_LISTEN", ""),
                ("CHICKWORK_FALLBACK", ""),
                ("CHATWORK_WEBHOOK_TOKEN", ""),
            ],
        );
        assert_eq!(
            read(&empty, |reader| reader.get(&LISTEN)).map(|address| address.port()),
            Ok(8080)
        );
        assert_eq!(
            read(&empty, |reader| reader.optional(&FALLBACK)),
            Ok(Some(String::new()))
        );
        assert_eq!(
            read(&empty, PolicySettings::read).map(|policy| policy.fallback),
            Ok(None)
        );
        assert!(
            read(&empty, |reader| reader.require(&WEBHOOK_TOKEN))
                .is_err_and(|error| error.contains("is not set"))
        );
    }

    #[test]
    fn a_password_that_is_empty_is_a_slip_and_one_that_is_not_set_is_none() {
        let password = |given: &Given| {
            let password = read(given, |reader| reader.deliberate(&INGRESS_BROKER_PASSWORD));
            password.map(|password| password.map(|secret| secret.reveal().to_owned()))
        };
        let file = file("hush\n");
        let path = file.path().to_str().expect("a plain path");
        const NAME: &str = "CHICKWORK_INGRESS_BROKER_PASSWORD";
        const FILE: &str = "CHICKWORK_INGRESS_BROKER_PASSWORD_FILE";
        const FLAG: &str = "ingress-broker-password";
        assert_eq!(password(&given(&[], &[])), Ok(None));
        for given in [
            given(&[], &[(NAME, "hush")]),
            given(&[], &[(NAME, ""), (FILE, path)]),
            given(&[(FLAG, "hush")], &[(NAME, "")]),
        ] {
            assert_eq!(password(&given), Ok(Some("hush".to_owned())));
        }
        for (given, origin) in [
            (given(&[], &[(NAME, "")]), NAME),
            (given(&[], &[(FILE, "")]), FILE),
            (given(&[], &[(NAME, " ")]), NAME),
            (given(&[(FLAG, "")], &[]), "--ingress-broker-password"),
        ] {
            let error = password(&given).expect_err(origin);
            assert!(
                error.contains(&format!("{origin} is set but empty"))
                    || error.contains(&format!("{origin}: is empty")),
                "{error}"
            );
        }
    }

    #[test]
    fn the_friendly_line_speaks_the_language_of_the_bot() {
        let line = |lang: &str| {
            let given = given(&[], &[("SIMSIMI_LANG", lang)]);
            read(&given, PolicySettings::read).map(|policy| policy.fallback.expect("a line"))
        };
        assert!(line("vn").is_ok_and(|line| line.contains("Chíp")));
        assert!(line("ja").is_ok_and(|line| line.contains("ぴよ")));
        assert!(line("ko").is_ok_and(|line| line.contains("Cheep")));
        let own = given(&[("fallback", "?!")], &[]);
        assert_eq!(
            read(&own, PolicySettings::read).map(|policy| policy.fallback),
            Ok(Some("?!".to_owned()))
        );
    }

    #[test]
    fn a_secret_may_come_from_a_file_without_its_trailing_newline() {
        let file = file("hush\r\n");
        let path = file.path().to_str().expect("a plain path");
        for given in [
            given(&[], &[("CHATWORK_API_TOKEN_FILE", path)]),
            given(&[("chatwork-api-token-file", path)], &[]),
            // The flag wins, so the variable does not contradict it.
            given(
                &[("chatwork-api-token-file", path)],
                &[("CHATWORK_API_TOKEN", "other")],
            ),
            given(
                &[],
                &[
                    ("CHATWORK_API_TOKEN_FILE", path),
                    ("CHATWORK_API_TOKEN", ""),
                ],
            ),
        ] {
            let secret = read(&given, |reader| reader.require(&API_TOKEN)).expect("a secret");
            assert_eq!(secret.reveal(), "hush");
        }
    }

    #[test]
    fn a_secret_that_is_set_twice_or_cannot_be_read_is_a_mistake() {
        let [empty, secret] = ["\n", "hush"].map(file);
        let [empty, secret] =
            [&empty, &secret].map(|file| file.path().to_str().expect("a plain path"));
        let cases: [(&[(&str, &str)], &str); 4] = [
            (
                &[
                    ("CHATWORK_API_TOKEN", "sesame"),
                    ("CHATWORK_API_TOKEN_FILE", secret),
                ],
                "both set",
            ),
            (
                &[("CHATWORK_API_TOKEN_FILE", "/nowhere/secret")],
                "/nowhere/secret",
            ),
            (&[("CHATWORK_API_TOKEN_FILE", empty)], "is empty"),
            (
                &[("CHATWORK_API_TOKEN", "open sesame")],
                "CHATWORK_API_TOKEN: contains a space",
            ),
        ];
        for (environment, expected) in cases {
            let error = read(&given(&[], environment), |reader| {
                reader.require(&API_TOKEN)
            })
            .expect_err(expected);
            assert!(
                error.contains(expected) && !error.contains("sesame"),
                "{error}"
            );
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_by_name() {
        let given = given(
            &[("concurrency", "many")],
            &[
                ("SIMSIMI_LANG", "vi"),
                ("CHICKWORK_MAX_AGE", "60"),
                ("CHICKWORK_QUEUE", "chickwork.db"),
            ],
        );
        let error = read(&given, |reader| {
            let process = ProcessSettings::read(reader);
            let ingress = IngressSettings::read(reader);
            let worker = WorkerSettings::read(reader);
            Some((process?, ingress?, worker?))
        })
        .expect_err("everything is wrong");
        for expected in [
            "7 settings are wrong",
            "SIMSIMI_LANG=vi: is not one of SimSimi's language codes; did you mean `vn`?",
            "--concurrency=many:",
            "CHICKWORK_MAX_AGE=60: has no unit; did you mean `60s`?",
            "CHICKWORK_QUEUE: ",
            "CHATWORK_WEBHOOK_TOKEN is not set (nor CHATWORK_WEBHOOK_TOKEN_FILE)",
            "CHATWORK_API_TOKEN is not set",
            "SIMSIMI_API_KEY is not set",
        ] {
            assert!(error.contains(expected), "{expected} in\n{error}");
        }
    }

    #[test]
    fn a_role_needs_only_its_own_settings() {
        let ingress = given(
            &[],
            &[("CHATWORK_WEBHOOK_TOKEN", TOKEN), ("SIMSIMI_LANG", "wrong")],
        );
        let mut reader = Reader::new(&ingress, &[Role::Ingress]);
        let settings = (
            LoggingSettings::read(&mut reader),
            ProcessSettings::read(&mut reader),
            IngressSettings::read(&mut reader),
        );
        assert!(
            reader
                .finish(settings.0.and(settings.1).and(settings.2))
                .is_ok()
        );

        let worker = given(
            &[],
            &[
                ("CHATWORK_API_TOKEN", "a"),
                ("SIMSIMI_API_KEY", "b"),
                ("CHICKWORK_LISTEN", "wrong"),
            ],
        );
        let mut reader = Reader::new(&worker, &[Role::Worker]);
        let settings = (
            LoggingSettings::read(&mut reader),
            ProcessSettings::read(&mut reader),
            WorkerSettings::read(&mut reader),
        );
        assert!(
            reader
                .finish(settings.0.and(settings.1).and(settings.2))
                .is_ok()
        );
    }

    #[test]
    fn every_default_is_a_value() {
        let unset = given(
            &[],
            &[
                ("CHATWORK_WEBHOOK_TOKEN", TOKEN),
                ("CHATWORK_API_TOKEN", "a"),
                ("SIMSIMI_API_KEY", "b"),
            ],
        );
        assert!(read(&unset, ProcessSettings::read).is_ok());
        assert!(read(&unset, IngressSettings::read).is_ok());
        assert!(read(&unset, LoggingSettings::read).is_ok());
        let worker = read(&unset, WorkerSettings::read).expect("defaults");
        assert_eq!((worker.policy.concurrency, worker.policy.lang), (16, "vn"));
        assert!(read(&unset, |reader| reader.get(&CONCURRENCY)).is_ok());
        assert!(read(&unset, |reader| reader.get(&SIMSIMI_LANG)).is_ok());
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let given = given(
            &[],
            &[
                ("CHATWORK_WEBHOOK_TOKEN", TOKEN),
                ("CHATWORK_API_TOKEN", "sesame"),
                ("SIMSIMI_API_KEY", "abracadabra"),
            ],
        );
        let ingress = format!(
            "{:?}",
            read(&given, IngressSettings::read).expect("settings")
        );
        let worker = format!(
            "{:?}",
            read(&given, WorkerSettings::read).expect("settings")
        );
        for secret in [TOKEN, "sesame", "abracadabra"] {
            assert!(
                !ingress.contains(secret) && !worker.contains(secret),
                "{ingress}{worker}"
            );
        }
    }

    #[test]
    fn variables_that_look_like_ours_are_warned_about() {
        let given = given(
            &[],
            &[
                ("CHICKWORK_QUEUE", "sqlite:a"),
                ("CHICKWORK_QUEUE_FILE", "a"),
                ("CHICKWORK_SERVICE_HOST", "10.0.0.1"),
                ("CHICKWORK_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
                ("CHICKWORK_CONCURENCY", "3"),
                ("CHICKWORK_LISTEN_FILE", "a"),
                ("CHICKWORK_MAKE_IT_FAST", "1"),
            ],
        );
        let warnings = given.unknown_variables();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].contains("did you mean CHICKWORK_CONCURRENCY?"));
        assert!(warnings[1].contains("CHICKWORK_LISTEN is no secret"));
        assert!(warnings[2].ends_with("there is no such setting"));
    }
}
