//! The data of the living town and of the standard models: one file per noun, each a small plain column or a resource.
//!
//! Behaviour is in `everworld-systems`. Units: metres, in-world minutes (one tick), coins; parts of one from 0 to 1.

mod annals;
mod census;
mod contagion;
mod customs;
mod day;
mod faction;
mod fleet;
mod flock;
mod forest;
mod goal;
mod health;
mod home;
mod market;
mod memory;
mod mind;
mod mood;
mod name;
mod needs;
mod occupation;
mod pack;
mod position;
mod prey;
mod purse;
mod segregation;
mod site;
mod ties;
mod town_map;
mod traits;
mod visit;

pub use annals::{Annals, AnnalsOne, DEEDS_MAX, Deed, Remembered};
pub use census::Census;
pub use contagion::Contagion;
pub use customs::Customs;
pub use day::{DAY_MINUTES, Day};
pub use faction::{Faction, Party};
pub use fleet::{Arena, Hull, Lost, Position3, Tally, Target, Velocity3};
pub use flock::{BirdPosition, BirdVelocity, Flock};
pub use forest::{Fire, Forest, Tree};
pub use goal::{Action, Goal};
pub use health::{Condition, Health};
pub use home::Home;
pub use market::{GOODS, Market};
pub use memory::{EPISODES, Episode, EpisodeKind, Memory};
pub use mind::{Choice, Consideration, Curve, CurveKind, Mind};
pub use mood::Mood;
pub use name::{Name, Persona};
pub use needs::Needs;
pub use occupation::{Occupation, Trade, Yield};
pub use pack::Pack;
pub use position::{Position, Velocity};
pub use prey::{Animal, Grass, Pasture, Species};
pub use purse::{Purse, Treasury};
pub use segregation::{Group, Neighbourhood, Resident};
pub use site::Site;
pub use ties::{TIES, Tie, Ties};
pub use town_map::TownMap;
pub use traits::Traits;
pub use visit::Visit;

use everworld_engine::WorldBuilder;

/// Registers every column of the town.
pub fn register(world: &mut WorldBuilder) {
    world
        .column::<Position>()
        .column::<Velocity>()
        .column::<Needs>()
        .column::<Traits>()
        .column::<Occupation>()
        .column::<Home>()
        .column::<Purse>()
        .column::<Pack>()
        .column::<Goal>()
        .column::<Mood>()
        .column::<Health>()
        .column::<Faction>()
        .column::<Memory>()
        .column::<Ties>()
        .column::<Visit>()
        .slow_column::<Name>()
        .slow_column::<Persona>();
}
