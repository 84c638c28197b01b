//! `holdfast schema`: the wire contract for programs, as JSON Schema or as AsyncAPI. It connects to nothing.

use clap::Args;
use holdfast_client::protocol::schema::{DOCUMENT, SIGNAL_GROUPS, Schemas};
use holdfast_client::protocol::subject::{Root, Target, Verb};
use holdfast_client::protocol::trace::TRACEPARENT;
use serde_json::{Map, Value, json};

use crate::exit::Failure;
use crate::output;

/// What to print.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Schema {
    /// Print an AsyncAPI 3 document: subjects, requests with their replies, and signals
    #[arg(long)]
    asyncapi: bool,
}

impl Schema {
    /// Prints the document.
    pub(crate) fn run(self, root: &Root) -> Result<(), Failure> {
        let text = if self.asyncapi { format!("{:#}\n", asyncapi(root)) } else { DOCUMENT.to_owned() };
        output::text(&text).map_err(Failure::Output)
    }
}

/// The AsyncAPI document of the installation below `root`. It describes Holdfast: what it receives are the requests.
fn asyncapi(root: &Root) -> Value {
    let schemas = Schemas::read();
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    messages.insert("error".to_owned(), error());
    for verb in Verb::ALL {
        let (name, reply) = (verb.to_string(), format!("{verb}.reply"));
        messages.insert(name.clone(), message(&format!("request.{verb}"), &name, TRACED));
        messages.insert(reply.clone(), message(&format!("reply.{verb}"), &reply, NO_HEADERS));
        channels.insert(name.clone(), requests(root, *verb));
        channels.insert(reply.clone(), replies(&reply));
        operations.insert(name.clone(), operation(&name, &reply));
    }
    for group in SIGNAL_GROUPS {
        let name = format!("signal.{group}");
        messages.insert(name.clone(), message(&name, &name, TRACED));
        channels.insert(name.clone(), signals(root, group));
        let operation = json!({
            "action": "send",
            "channel": reference(&format!("#/channels/{name}")),
            "summary": format!("Announces what happened in the group {group}."),
        });
        operations.insert(name, operation);
    }
    let schemas: Map<String, Value> = schemas.iter().map(|(name, schema)| (name.clone(), schema.clone())).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Holdfast",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Sessions, locks and documents on NATS. PROTOCOL.md says what the members mean.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": { "nats": { "host": "127.0.0.1:4222", "protocol": "nats" } },
        "channels": channels,
        "operations": operations,
        "components": { "schemas": schemas, "messages": messages },
    })
}

/// Whether a message may have a trace.
type Headers = &'static [&'static str];
const TRACED: Headers = &[TRACEPARENT];
const NO_HEADERS: Headers = &[];

fn reference(to: &str) -> Value {
    json!({ "$ref": to })
}

fn message(schema: &str, name: &str, headers: Headers) -> Value {
    let mut message = json!({ "name": name, "payload": reference(&format!("#/components/schemas/{schema}")) });
    if !headers.is_empty() {
        let of = |name: &&str| ((*name).to_owned(), json!({ "type": "string" }));
        let properties: Map<String, Value> = headers.iter().map(of).collect();
        message["headers"] = json!({ "type": "object", "properties": properties });
    }
    message
}

fn error() -> Value {
    json!({
        "name": "error",
        "payload": reference("#/components/schemas/error"),
        "headers": {
            "type": "object",
            "properties": {
                "Nats-Service-Error": { "type": "string", "description": "The message." },
                "Nats-Service-Error-Code": { "type": "string", "description": "The number of the code." },
            },
            "required": ["Nats-Service-Error", "Nats-Service-Error-Code"],
        },
    })
}

/// The channel of the requests of `verb`.
fn requests(root: &Root, verb: Verb) -> Value {
    let namespace = ("namespace", "The sessions' namespace, `default` unless chosen: 1 to 32 of a-z, 0-9, _ and -.");
    let session = ("id", "The session's id: 1 to 64 of A-Z, a-z, 0-9, _ and -.");
    let worker = ("worker", "The worker's name: 1 to 64 of A-Z, a-z, 0-9, _ and -.");
    let (address, parameters) = match verb.target() {
        Target::Session => (format!("{root}.{{namespace}}.{verb}.{{id}}"), vec![namespace, session]),
        Target::Namespace => (format!("{root}.{{namespace}}.{verb}"), vec![namespace]),
        Target::Worker => (format!("{root}.sys.{verb}.{{worker}}"), vec![worker]),
        Target::Fleet => (format!("{root}.sys.{verb}"), Vec::new()),
    };
    let messages = json!({ "request": reference(&format!("#/components/messages/{verb}")) });
    channel(&json!(address), &parameters, &messages, "Answered on the request's reply subject.")
}

fn replies(message: &str) -> Value {
    let messages = json!({
        "reply": reference(&format!("#/components/messages/{message}")),
        "error": reference("#/components/messages/error"),
    });
    channel(&Value::Null, &[], &messages, "The reply subject that the NATS client chose.")
}

fn signals(root: &Root, group: &str) -> Value {
    let parameters = [
        ("namespace", "The session's namespace."),
        ("id", "The session's id."),
        ("event", "What happened; the last word but one of the member `type`."),
    ];
    let messages = json!({ "signal": reference(&format!("#/components/messages/signal.{group}")) });
    let address = format!("{root}.{{namespace}}.signal.{{id}}.{group}.{{event}}");
    channel(&json!(address), &parameters, &messages, "Signals, at least once and in commit order of each session.")
}

fn channel(address: &Value, parameters: &[(&str, &str)], messages: &Value, description: &str) -> Value {
    let mut channel = json!({ "address": address, "messages": messages, "description": description });
    if !parameters.is_empty() {
        let of = |(name, description): &(&str, &str)| ((*name).to_owned(), json!({ "description": description }));
        channel["parameters"] = Value::Object(parameters.iter().map(of).collect());
    }
    channel
}

fn operation(name: &str, reply: &str) -> Value {
    json!({
        "action": "receive",
        "channel": reference(&format!("#/channels/{name}")),
        "messages": [reference(&format!("#/channels/{name}/messages/request"))],
        "bindings": { "nats": { "queue": "q" } },
        "reply": {
            "channel": reference(&format!("#/channels/{reply}")),
            "messages": [
                reference(&format!("#/channels/{reply}/messages/reply")),
                reference(&format!("#/channels/{reply}/messages/error")),
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_an_operation_on_the_subjects_of_the_root() {
        let document = asyncapi(&Root::parse("acme").unwrap());
        for verb in Verb::ALL {
            assert_eq!(document["operations"][verb.as_str()]["action"], "receive");
        }
        let address = |name: &str| document["channels"][name]["address"].clone();
        assert_eq!(address("session.get"), "acme.{namespace}.session.get.{id}");
        assert_eq!(address("session.open"), "acme.{namespace}.session.open");
        assert_eq!(address("worker.list"), "acme.sys.worker.list");
        assert_eq!(address("worker.drain"), "acme.sys.worker.drain.{worker}");
        assert_eq!(address("session.get.reply"), Value::Null);
        assert_eq!(address("signal.lock"), "acme.{namespace}.signal.{id}.lock.{event}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = asyncapi(&Root::default());
        let text = document.to_string();
        let mut references = 0;
        for rest in text.split(r##""$ref":"#"##).skip(1) {
            let pointer = rest.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            references += 1;
        }
        assert!(references > 5 * Verb::ALL.len(), "{references}");
    }
}
