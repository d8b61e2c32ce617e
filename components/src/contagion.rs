//! How illness goes around.

use everworld_engine::resource;

resource! {
    /// How illness goes around.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct Contagion("contagion", version 1) {
        /// With which probability somebody within earshot who is ill passes it on, each time that one looks around.
        pub by_contact: f32,
        /// With which probability one falls ill without anybody, in a day.
        pub by_day: f32,
        /// For so many hours one is ill.
        pub hours: u8,
    }
}
