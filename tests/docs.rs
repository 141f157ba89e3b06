//! The pages, held against what they speak of: links and anchors lead somewhere, every alert has its
//! section and every section its alert, and the commands and flags in code are those of the binary. Needs no
//! network; what a page says in words is for people to check.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use chickwork_tests::process::chickwork;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const OPERATIONS: &str = "docs/operations.md";
const ALERTS: &str = "deploy/observability/alerts.yml";
/// The section of [`OPERATIONS`] that has one for each alert.
const ALERTS_SECTION: &str = "Alerts";
/// What stands for the binary in `docker compose run --rm SERVICE`.
const SERVICES: &[&str] = &["ingress", "worker", "sandbox", "operator", "topology"];

/// A page, taken apart.
struct Page {
    /// From the root of the repository.
    path: PathBuf,
    headings: Vec<Heading>,
    /// Where links lead.
    links: Vec<String>,
    /// Code in sentences, and lines of code blocks.
    code: Vec<String>,
}

struct Heading {
    level: usize,
    text: String,
}

impl Page {
    fn read(path: PathBuf) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(Path::new(ROOT).join(&path))
            .with_context(|| path.display().to_string())?;
        Ok(Self::parse(path, &text))
    }

    fn parse(path: PathBuf, text: &str) -> Self {
        let mut page = Self {
            path,
            headings: Vec::new(),
            links: Vec::new(),
            code: Vec::new(),
        };
        let mut in_block = false;
        let mut paragraph = String::new();
        for line in text.lines() {
            let fence = line.trim_start().starts_with("```");
            if fence || line.is_empty() {
                page.paragraph(&std::mem::take(&mut paragraph));
            }
            if fence {
                in_block = !in_block;
            } else if in_block {
                page.code.push(line.to_owned());
            } else {
                page.heading(line);
                paragraph.push_str(line);
                paragraph.push(' ');
            }
        }
        page.paragraph(&paragraph);
        page
    }

    fn heading(&mut self, line: &str) {
        let level = line.len() - line.trim_start_matches('#').len();
        if let Some(text) = line[level..].strip_prefix(' ')
            && level > 0
        {
            self.headings.push(Heading {
                level,
                text: text.to_owned(),
            });
        }
    }

    /// Every second piece between backticks is code, and may go on from one line to the next.
    fn paragraph(&mut self, text: &str) {
        let (words, code): (Vec<_>, Vec<_>) = text
            .split('`')
            .enumerate()
            .partition(|(place, _)| place % 2 == 0);
        self.code
            .extend(code.into_iter().map(|(_, code)| code.to_owned()));
        let words: String = words.into_iter().map(|(_, words)| words).collect();
        let links = words.split("](").skip(1);
        self.links
            .extend(links.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }

    /// What a link may name behind its `#`, as GitHub makes it of the headings.
    fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for heading in &self.headings {
            let anchor = anchor(&heading.text);
            let again = (1..).map(|number| format!("{anchor}-{number}"));
            let free = std::iter::once(anchor.clone())
                .chain(again)
                .find(|anchor| !anchors.contains(anchor));
            anchors.extend(free);
        }
        anchors
    }
}

/// Lower case, without what is no letter, digit, dash or underscore, spaces as dashes. Of a link in a
/// heading its words count.
fn anchor(heading: &str) -> String {
    let mut words = String::new();
    let mut rest = heading;
    while let Some((before, link)) = rest.split_once("](") {
        words.push_str(before);
        rest = link.split_once(')').map_or("", |(_, after)| after);
    }
    words.push_str(rest);
    words
        .trim()
        .to_lowercase()
        .chars()
        .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

/// Every page: those at the top, and all in `docs`.
fn pages() -> anyhow::Result<Vec<Page>> {
    let mut paths = Vec::new();
    for folder in ["", "docs"] {
        for entry in std::fs::read_dir(Path::new(ROOT).join(folder))? {
            let name = PathBuf::from(entry?.file_name());
            if name.extension().is_some_and(|extension| extension == "md") {
                paths.push(Path::new(folder).join(name));
            }
        }
    }
    paths.sort();
    paths.into_iter().map(Page::read).collect()
}

/// Fails with all that was found, not with the first of it.
fn nothing_is_wrong(findings: &[String]) -> anyhow::Result<()> {
    ensure!(findings.is_empty(), "{}", findings.join("\n"));
    Ok(())
}

#[test]
fn every_link_leads_somewhere() -> anyhow::Result<()> {
    let pages = pages()?;
    let root = Path::new(ROOT).canonicalize()?;
    let mut findings = Vec::new();
    for page in &pages {
        let here = page.path.display();
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = match link.split_once('#') {
                Some((file, anchor)) => (file, Some(anchor)),
                None => (link.as_str(), None),
            };
            let path = if file.is_empty() {
                page.path.clone()
            } else {
                page.path.with_file_name("").join(file)
            };
            let Ok(there) = root.join(&path).canonicalize() else {
                findings.push(format!("{here}: {link}: there is no such file"));
                continue;
            };
            let Some(anchor) = anchor else { continue };
            let target = pages.iter().find(|page| root.join(&page.path) == there);
            if !target.is_some_and(|target| target.anchors().contains(anchor)) {
                findings.push(format!("{here}: {link}: there is no such heading"));
            }
        }
    }
    nothing_is_wrong(&findings)
}

#[test]
fn every_alert_has_its_section_and_every_section_its_alert() -> anyhow::Result<()> {
    let rules = std::fs::read_to_string(Path::new(ROOT).join(ALERTS))?;
    let value = |key: &'static str| {
        rules
            .lines()
            .filter_map(move |line| line.trim_start().strip_prefix(key))
            .map(|value| value.trim().to_owned())
    };
    let alerts: Vec<String> = value("- alert:").collect();
    ensure!(!alerts.is_empty(), "{ALERTS} has no alert");
    let books: Vec<String> = value("runbook:").collect();
    let expected: Vec<String> = alerts
        .iter()
        .map(|alert| format!("{OPERATIONS}#{}", anchor(alert)))
        .collect();
    ensure!(
        books == expected,
        "the runbooks of {ALERTS} are {books:#?}, and not {expected:#?}"
    );

    let page = Page::read(OPERATIONS.into())?;
    let sections: BTreeSet<&str> = page
        .headings
        .iter()
        .skip_while(|heading| heading.text != ALERTS_SECTION)
        .skip(1)
        .take_while(|heading| heading.level > 2)
        .map(|heading| heading.text.as_str())
        .collect();
    let alerts: BTreeSet<&str> = alerts.iter().map(String::as_str).collect();
    let without: Vec<_> = alerts.difference(&sections).collect();
    let gone: Vec<_> = sections.difference(&alerts).collect();
    ensure!(
        without.is_empty() && gone.is_empty(),
        "{OPERATIONS}: no section for {without:?}; no alert for {gone:?}"
    );
    Ok(())
}

#[tokio::test]
async fn every_command_and_flag_in_code_exists() -> anyhow::Result<()> {
    let commands = Commands::ask().await?;
    let mut findings = Vec::new();
    let mut looked_at = 0;
    for page in pages()? {
        for code in &page.code {
            let found = commands.look_at(code);
            looked_at += usize::from(found.is_some());
            let wrong = found.into_iter().flatten();
            findings.extend(wrong.map(|wrong| format!("{}: {code}: {wrong}", page.path.display())));
        }
    }
    ensure!(looked_at > 0, "no page names a command");
    nothing_is_wrong(&findings)
}

#[tokio::test]
async fn a_command_or_a_flag_that_does_not_exist_is_found() -> anyhow::Result<()> {
    let commands = Commands::ask().await?;
    for right in [
        "chickwork",
        "$ chickwork dead list --cause refused --json  # what was given up",
        "$ CHICKWORK_QUEUE=sqlite:x.db target/release/chickwork audit --since=2d && echo --no-flag",
        "docker compose run --rm worker doctor --role worker",
        "kubectl exec --namespace chickwork --container x y -- /usr/local/bin/chickwork status",
        "sudo chickwork-operator --as worker doctor --role worker",
        "chickwork COMMAND --help",
        "chickwork dead …",
    ] {
        let found = commands.look_at(right);
        ensure!(found == Some(Vec::new()), "{right}: {found:?}");
    }
    for wrong in [
        "chickwork status --depth",
        "$ chickwork undertake",
        "chickwork dead bury",
        "docker compose run --rm operator statuses",
        "kubectl exec --namespace chickwork x -- /usr/local/bin/chickwork audit --ask",
        "sudo chickwork-operator audit --requeues",
    ] {
        let found = commands.look_at(wrong);
        ensure!(
            found.as_ref().is_some_and(|found| found.len() == 1),
            "{wrong}: {found:?}"
        );
    }
    ensure!(commands.look_at("systemctl restart nginx").is_none());
    Ok(())
}

/// Every command of the binary with its help, by the words that call it; the binary itself by none.
struct Commands(BTreeMap<Vec<String>, String>);

impl Commands {
    async fn ask() -> anyhow::Result<Self> {
        let mut known = BTreeMap::new();
        let mut unasked = vec![Vec::<String>::new()];
        while let Some(words) = unasked.pop() {
            let arguments: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
            let output = chickwork(arguments[0])?.args(&arguments[1..]).output();
            let output = output.await?;
            ensure!(output.status.success(), "chickwork {}", arguments.join(" "));
            let help = String::from_utf8(output.stdout)?;
            unasked.extend(below(&help).map(|name| [words.clone(), vec![name]].concat()));
            known.insert(words, help);
        }
        Ok(Self(known))
    }

    /// What is wrong with the command in this code; `None` if there is no command of ours in it.
    fn look_at(&self, code: &str) -> Option<Vec<String>> {
        let words: Vec<&str> = code.split_whitespace().collect();
        let mut arguments = words[program(&words)?..].iter().copied().peekable();
        let mut command = Vec::new();
        while let Some(word) = arguments.next_if(|word| is_name(word)) {
            command.push(word.to_owned());
            if !self.0.contains_key(&command) {
                command.pop();
                if below(&self.0[&command]).next().is_some() {
                    return Some(vec![format!("there is no command {word}")]);
                }
                break;
            }
        }
        let help = &self.0[&command];
        let flags = arguments
            .take_while(|word| !is_end(word))
            .filter(|word| word.starts_with("--") && word.len() > 2)
            .filter_map(|word| word.split(['=', ',', '.', ':', ')']).next());
        Some(
            flags
                .filter(|flag| !names(help, flag))
                .map(|flag| format!("there is no flag {flag}"))
                .collect(),
        )
    }
}

/// The commands that a help lists.
fn below(help: &str) -> impl Iterator<Item = String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What goes on on the next line is indented further.
        .filter_map(|line| {
            line.strip_prefix("  ")
                .filter(|line| !line.starts_with(' '))
        })
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
}

/// Where the arguments of the binary begin, if these words call it.
fn program(words: &[&str]) -> Option<usize> {
    words.iter().enumerate().find_map(|(place, word)| {
        let after = place + 1;
        let before = place.checked_sub(1).map_or("", |before| words[before]);
        match *word {
            // In `kubectl --namespace chickwork` it is no program.
            "chickwork" if before.len() > 2 && before.starts_with("--") => None,
            "chickwork" => Some(after),
            "chickwork-operator" if words.get(after) == Some(&"--as") => Some(after + 2),
            "chickwork-operator" => Some(after),
            word if word.ends_with("/bin/chickwork") || word.ends_with("/release/chickwork") => {
                Some(after)
            }
            "--rm" if words.get(after).is_some_and(|word| SERVICES.contains(word)) => {
                Some(after + 1)
            }
            _ => None,
        }
    })
}

/// Commands are lower case; what a reader has to fill in is not.
fn is_name(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// Where a command ends, for a shell or a reader.
fn is_end(word: &str) -> bool {
    word.starts_with(['#', '|', '>', '<', '&', ';', '(']) || word.ends_with(';')
}

/// Whether a help names this flag, and not one that only begins like it.
fn names(help: &str, flag: &str) -> bool {
    help.match_indices(flag).any(|(place, _)| {
        let after = help[place + flag.len()..].chars().next();
        !after.is_some_and(|letter| letter.is_ascii_alphanumeric() || letter == '-')
    })
}

#[test]
fn an_anchor_is_made_as_github_makes_it() {
    for (heading, expected) in [
        ("Every day, every week", "every-day-every-week"),
        ("2. The API token", "2-the-api-token"),
        ("It answers, but …", "it-answers-but-"),
        ("ChickworkSpoolFilling", "chickworkspoolfilling"),
        ("[Unreleased]", "unreleased"),
        ("`serve` on [SQLite](x.md)", "serve-on-sqlite"),
        ("Cách hoạt động", "cách-hoạt-động"),
    ] {
        assert_eq!(anchor(heading), expected);
    }
}
