//! The cast: names and what is told of them. Rare, hence slow columns.

use everworld_engine::slow_component;

slow_component! {
    /// What someone of the cast is called.
    pub struct Name("name", version 1) {
        /// The full name.
        name: String,
    }
}

slow_component! {
    /// What moves someone of the cast.
    pub struct Persona("persona", version 1) {
        /// What they hope for.
        wish: String,
        /// What nobody may know.
        secret: String,
        /// Whom they are bound to, and how: `Name: how`.
        ties: Vec<String>,
    }
}
