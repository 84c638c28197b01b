//! A reply, and the shape that every success and every refusal must have.

use serde_json::Value;

/// A reply.
#[derive(Clone, Debug)]
pub struct Reply {
    subject: String,
    /// Its body.
    pub body: Value,
    /// The micro service's error number, from the header.
    pub number: Option<String>,
    /// The micro service's error text, from the header.
    pub description: Option<String>,
}

impl Reply {
    /// The reply to a request on `subject`.
    pub fn of(subject: &str, message: async_nats::Message) -> Self {
        let header = |name: &str| Some(message.headers.as_ref()?.get_last(name)?.to_string());
        Self {
            subject: subject.to_owned(),
            body: serde_json::from_slice(&message.payload).unwrap_or(Value::Null),
            number: header("Nats-Service-Error-Code"),
            description: header("Nats-Service-Error"),
        }
    }

    /// The body of a success.
    ///
    /// # Panics
    /// When it is an error.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.number.is_none() && self.body.get("error").is_none(), "{}: {}", self.subject, self.body);
        assert!(self.body.is_object(), "{}: the reply is no object: {}", self.subject, self.body);
        self.body
    }

    /// The error, which must be `reason` and have the contract's whole shape.
    ///
    /// # Panics
    /// When it is a success, another error, or lacks a member or a header.
    #[track_caller]
    pub fn refused(self, code: &str, reason: &str) -> Value {
        let error = &self.body["error"];
        assert_eq!(
            (error["code"].as_str(), error["reason"].as_str()),
            (Some(code), Some(reason)),
            "{}: {}",
            self.subject,
            self.body
        );
        for member in ["message", "request_id"] {
            assert!(error[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {error}");
        }
        assert!(
            error["retryable"].is_boolean() && error["details"].is_object() && error["actions"].is_array(),
            "{error}"
        );
        let number = match code {
            "invalid_params" => "400",
            "forbidden" => "403",
            "not_found" => "404",
            "conflict" => "409",
            "too_large" => "413",
            "filesystem" => "422",
            "busy" => "429",
            "internal" => "500",
            "unavailable" => "503",
            "unknown_outcome" => "504",
            other => panic!("{other} is no code of the contract"),
        };
        assert_eq!(self.number.as_deref(), Some(number), "the header's number of {error}");
        assert!(self.description.is_some(), "the header's text of {error}");
        error.clone()
    }
}
