//! Day and night.

use everworld_components::{DAY_MINUTES, Day};
use everworld_engine::prelude::*;

/// Minutes since midnight at tick 0: worlds begin in the morning.
pub(crate) const START_MINUTE: u64 = 360;
const SUNRISE: f32 = 360.0;
const SUNSET: f32 = 1_260.0;

/// Renews the time of the day from the tick.
pub(crate) fn pass(time: Res<TickTime>, mut day: ResMut<Day>) {
    let minutes = time.tick.0 + START_MINUTE;
    let minute = minutes % DAY_MINUTES;
    let height = (minute as f32 - SUNRISE) / (SUNSET - SUNRISE);
    let light = if (0.0..=1.0).contains(&height) { math::sin32(height * std::f32::consts::PI) } else { 0.0 };
    *day = Day { number: minutes / DAY_MINUTES, minute, light };
}
