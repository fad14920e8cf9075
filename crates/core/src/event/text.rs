//! What an event says.

use serde::Deserialize;

use super::Event;

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    parts: Option<Vec<Part>>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    thought: Option<bool>,
}

impl Event {
    /// Returns the text of the event: that of its parts, joined, without thoughts. `None` if there is none, or if the
    /// content has another shape than google-adk's.
    ///
    /// ```
    /// use seabed_core::Event;
    ///
    /// assert_eq!(Event::new("user").with_text("To Rome").text().as_deref(), Some("To Rome"));
    /// assert_eq!(Event::new("user").text(), None);
    /// ```
    pub fn text(&self) -> Option<String> {
        let content: Content = self.content.as_ref()?.decode().ok()?;
        let spoken = content.parts?.into_iter().filter(|part| part.thought != Some(true));
        let text = spoken.filter_map(|part| part.text).collect::<String>();
        (!text.is_empty()).then_some(text)
    }
}
