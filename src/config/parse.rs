//! From text to a [`Config`]. Unknown keys are looked for first, so that the error can name the nearest known one.

use super::{Config, ConfigError};
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// The array of tables that have the keys of `[port]`.
const MORE_PORTS: &str = "more_ports";
/// Below this likeness (0..=1) a known key is no suggestion.
const LIKENESS_MIN: f64 = 0.75;

impl Config {
    /// The defaults, with what a TOML file says.
    ///
    /// # Errors
    /// When it cannot be read or [`Config::from_toml`] refuses it.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Config::from_toml(&text, &path.display().to_string())
    }

    /// The defaults, with what a TOML text says. `origin` names the text in errors. Ranges are not checked here
    /// but by [`Config::validate`], once everything has had its say.
    ///
    /// # Errors
    /// Text that is no TOML, unknown keys, values of the wrong type; each with its line.
    pub fn from_toml(text: &str, origin: &str) -> Result<Config, ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            origin: origin.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        };
        refuse_unknown_keys(DeTable::parse(text).map_err(syntax)?.get_ref(), text, origin)?;
        toml::from_str(text).map_err(syntax)
    }

    /// Sets one key: `assignment` is `table.key=value`, the value as in TOML; text needs no quotes.
    ///
    /// # Errors
    /// As [`Config::from_toml`].
    pub fn set(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let origin = format!("--set {assignment}");
        let syntax = |message: String| ConfigError::Syntax { origin: origin.clone(), message };
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(syntax("write it as table.key=value, e.g. tcp.min_rto_ms=20".to_owned()));
        };
        let bare = format!("{} = {}", key.trim(), value.trim());
        let quoted = format!("{} = {}", key.trim(), toml::Value::String(value.trim().to_owned()));
        let text = if DeTable::parse(&bare).is_ok() { bare } else { quoted };
        let given = DeTable::parse(&text).map_err(|error| syntax(error.message().to_owned()))?;
        refuse_unknown_keys(given.get_ref(), &text, &origin)?;

        let changes: toml::Table =
            toml::from_str(&text).map_err(|error| syntax(error.message().to_owned()))?;
        let mut all = toml::Table::try_from(&*self).map_err(|error| syntax(error.to_string()))?;
        for (table, change) in changes {
            match (all.get_mut(&table), change) {
                (Some(toml::Value::Table(keys)), toml::Value::Table(change)) => keys.extend(change),
                (_, change) => drop(all.insert(table, change)),
            }
        }
        *self = Config::deserialize(all).map_err(|error| syntax(error.message().to_owned()))?;
        Ok(())
    }

    /// All keys, each with its table: `tcp.min_rto_ms`. Those of `[[more_ports]]` are the same as of `[port]`.
    pub fn keys() -> Vec<String> {
        tables()
            .iter()
            .filter(|(table, _)| *table != MORE_PORTS)
            .flat_map(|(table, keys)| keys.iter().map(move |key| format!("{table}.{key}")))
            .collect()
    }
}

/// The tables and the keys of each, as the structs have them.
fn tables() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("server", fields::<super::ServerConfig>()),
        ("guards", fields::<super::GuardsConfig>()),
        ("port", fields::<super::PortConfig>()),
        ("more_ports", fields::<super::PortConfig>()),
        ("tls", fields::<super::TlsSettings>()),
        ("tcp", fields::<super::TcpSettings>()),
        ("websocket", fields::<super::WebSocketConfig>()),
        ("compression", fields::<super::CompressionConfig>()),
        ("limits", fields::<super::LimitsConfig>()),
        ("workers", fields::<super::WorkersConfig>()),
        ("burst", fields::<super::BurstConfig>()),
        ("drain", fields::<super::DrainConfig>()),
        ("log", fields::<super::LogConfig>()),
    ]
}

fn refuse_unknown_keys(document: &DeTable<'_>, text: &str, origin: &str) -> Result<(), ConfigError> {
    let unknown = |key: String, at: usize, hint: String| {
        let line = 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
        Err(ConfigError::UnknownKey { origin: origin.to_owned(), line, key, hint })
    };
    for (table, value) in document {
        let name = table.get_ref().as_ref();
        let Some((_, keys)) = tables().into_iter().find(|(known, _)| *known == name) else {
            let hint = match value.get_ref() {
                DeValue::Table(_) => hint_table(name),
                _ => hint_key("", name),
            };
            return unknown(name.to_owned(), table.span().start, hint);
        };
        let contents: Vec<&DeTable<'_>> = match value.get_ref() {
            DeValue::Table(content) => vec![content],
            DeValue::Array(items) => items.iter().filter_map(|item| item.get_ref().as_table()).collect(),
            _ => continue,
        };
        for key in contents.into_iter().flat_map(|content| content.keys()) {
            let name = key.get_ref().as_ref();
            if !keys.contains(&name) {
                let path = format!("{}.{name}", table.get_ref());
                return unknown(path, key.span().start, hint_key(table.get_ref(), name));
            }
        }
    }
    Ok(())
}

/// The nearest key of any table; the same name in another table is as near as can be.
fn hint_key(table: &str, key: &str) -> String {
    let known = tables();
    let all = known.iter().flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)));
    let likeness = |&(other, name): &(&str, &str)| {
        strsim::jaro_winkler(key, name) + if other == table { 0.001 } else { 0.0 }
    };
    // Of two that are as near the first is told.
    match all.rev().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        Some(nearest) if likeness(&nearest) >= LIKENESS_MIN => {
            format!("did you mean `{}.{}`?", nearest.0, nearest.1)
        }
        _ => match known.iter().find(|(name, _)| *name == table) {
            Some((_, keys)) => format!("the keys of [{table}] are {}", keys.join(", ")),
            None => hint_table(key),
        },
    }
}

fn hint_table(table: &str) -> String {
    let known: Vec<_> = tables().into_iter().map(|(name, _)| name).collect();
    let likeness = |name: &&str| strsim::jaro_winkler(table, name);
    match known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        Some(nearest) if likeness(&nearest) >= LIKENESS_MIN => format!("did you mean [{nearest}]?"),
        _ => format!("the tables are {}", known.join(", ")),
    }
}

/// The field names of a struct, asked of its own `Deserialize`: no second list to keep.
fn fields<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Ask<'f>(&'f mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only structs have fields"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut found: &'static [&'static str] = &[];
    // It fails once it has asked; the answer is in `found`.
    let _ = T::deserialize(Ask(&mut found));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{App, Congestion, LogFormat, PortSpec};

    fn refused(text: &str) -> String {
        Config::from_toml(text, "uns.toml").unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::from_toml("", "x").unwrap(), Config::default());
    }

    #[test]
    fn a_file_is_read() {
        let text = "[server]\napp = 'chat'\n[port]\nspec = 'tap:t0'\nip = ['10.0.0.2/24']\n[tcp]\ncongestion = 'none'";
        let config = Config::from_toml(text, "x").unwrap();
        assert_eq!(config.server.app, App::Chat);
        let pubsub = Config::from_toml("[server]\napp = 'pubsub'", "x").unwrap();
        assert_eq!(pubsub.server.app, App::PubSub);
        assert_eq!(config.port.spec, Some(PortSpec::Tap { name: "t0".into() }));
        assert_eq!(config.port.ip[0].to_string(), "10.0.0.2/24");
        assert_eq!(config.tcp.congestion, Congestion::None);
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = "[port]\nspec = 'wire'\nip = ['fd73::2/64']\nmac = '02:00:00:00:00:02'\n\
                    routes = [{ to = '10.0.0.0/8', via = '10.0.0.1' }]\n[workers]\npoll = 'spin'";
        let config = Config::from_toml(text, "x").unwrap();
        assert_eq!(Config::from_toml(&toml::to_string(&config).unwrap(), "x").unwrap(), config);
    }

    #[test]
    fn an_unknown_key_is_told_its_line_and_the_nearest_known_one() {
        assert_eq!(
            refused("[tcp]\n# floor\nmin_rto = 20"),
            "uns.toml, line 3: unknown key `tcp.min_rto`; did you mean `tcp.min_rto_ms`?"
        );
        assert_eq!(
            refused("[server]\nmessage_bytes_max = 1"),
            "uns.toml, line 2: unknown key `server.message_bytes_max`; did you mean `websocket.message_bytes_max`?"
        );
        assert_eq!(
            refused("listen = 80"),
            "uns.toml, line 1: unknown key `listen`; did you mean `server.listen`?"
        );
        assert_eq!(
            refused("drain.zzz = 1"),
            "uns.toml, line 1: unknown key `drain.zzz`; the keys of [drain] are deadline_ms"
        );
    }

    #[test]
    fn more_ports_have_the_keys_of_the_first() {
        let text = "port.spec = 'tap:a'\n[[more_ports]]\nspec = 'tap:b'\nworkers = 2\n[[more_ports]]\nspec = 'tap:c'";
        let config = Config::from_toml(text, "x").unwrap();
        let specs: Vec<_> =
            config.more_ports.iter().flat_map(|port| &port.spec).map(PortSpec::to_string).collect();
        assert_eq!((specs, config.more_ports[0].workers), (vec!["tap:b".into(), "tap:c".into()], Some(2)));
        assert_eq!(Config::from_toml(&toml::to_string(&config).unwrap(), "x").unwrap(), config);
        assert_eq!(
            refused("[[more_ports]]\nspec = 'tap:b'\n[[more_ports]]\ngatway = []"),
            "uns.toml, line 4: unknown key `more_ports.gatway`; did you mean `more_ports.gateway`?"
        );
        let mut config = Config::default();
        config.set("more_ports=[{ spec = 'tap:b', ip = ['10.0.0.2/24'] }]").unwrap();
        assert_eq!(config.more_ports.len(), 1);
        let message = config.set("more_ports=[{ spek = 'tap:b' }]").unwrap_err().to_string();
        assert!(message.contains("did you mean `more_ports.spec`?"), "{message}");
    }

    #[test]
    fn an_unknown_table_is_told_the_nearest_known_one() {
        assert_eq!(
            refused("\n[websockets]\nx = 1"),
            "uns.toml, line 2: unknown key `websockets`; did you mean [websocket]?"
        );
        assert!(refused("[qqq]").contains("the tables are server, guards, port, more_ports, tls, tcp"));
    }

    #[test]
    fn a_wrong_value_is_shown_with_its_line() {
        let message = refused("[tcp]\nmin_rto_ms = 'soon'");
        assert!(
            message.contains("uns.toml") && message.contains("line 2") && message.contains("soon"),
            "{message}"
        );
        let message = refused("[port]\nspec = 'eth0'");
        assert!(message.contains("line 2") && message.contains("unknown port `eth0`"), "{message}");
        let message = refused("[port]\nroutes = [{ to = '10.0.0.0/8', vias = '10.0.0.1' }]");
        assert!(
            message.contains("line 2") && message.contains("vias") && message.contains("`via`"),
            "{message}"
        );
        assert!(refused("tcp = 5").contains("invalid type"));
        assert!(refused("[tcp").contains("line 1"));
        assert!(refused("limits.connections_max = -1").contains("-1"));
    }

    #[test]
    fn one_key_is_set() {
        let mut config = Config::default();
        config.set("tcp.min_rto_ms=20").unwrap();
        config.set("log.format = json").unwrap();
        config.set("port.ip=['10.0.0.2/24', 'fd73::2/64']").unwrap();
        config.set("port.spec=tap:t0").unwrap();
        assert_eq!(config.tcp.min_rto_ms, 20);
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.port.ip.len(), 2);
        assert_eq!(config.port.spec, Some(PortSpec::Tap { name: "t0".into() }));
    }

    #[test]
    fn a_bad_assignment_leaves_all_as_it_was() {
        let mut config = Config::default();
        for (assignment, word) in [
            ("tcp.min_rto_ms", "table.key=value"),
            ("tcp.min_rto=20", "`tcp.min_rto_ms`"),
            ("tcp.min_rto_ms=soon", "soon"),
            ("tcp=5", "invalid type"),
            ("a b=5", "--set a b=5"),
            ("=", "--set ="),
            ("tcp.min_rto_ms=5\nlisten=6", "--set"),
        ] {
            let message = config.set(assignment).unwrap_err().to_string();
            assert!(message.contains(word) && message.starts_with("--set"), "{assignment}: {message}");
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn keys_come_from_the_structs() {
        let keys = Config::keys();
        assert!(keys.len() > 50 && keys.contains(&"port.netns".to_owned()));
        let written = toml::Table::try_from(Config::default()).unwrap();
        for (table, content) in written {
            for key in content.as_table().unwrap().keys() {
                assert!(keys.contains(&format!("{table}.{key}")), "{table}.{key}");
            }
        }
        assert!(tables().iter().map(|(name, _)| name).eq(fields::<Config>()));
    }
}
