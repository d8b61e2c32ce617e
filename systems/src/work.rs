//! What is done at the place of a goal: meals are eaten, work yields food and wares, goods come to the market.

use crate::{
    market::Bid,
    mind::{OWN_FOOD, OWN_WARES, produce},
    needs::is_there,
};
use everworld_components::{
    Action, Customs, Day, Goal, Market, Mood, Needs, Occupation, Pack, Position, Purse, Trade, Traits,
    Treasury, Yield,
};
use everworld_engine::{event, prelude::*};

/// A meal stills so much hunger.
const MEAL: f32 = 0.65;
/// Nobody carries more of one thing.
const PACK_MAX: u16 = 40;
/// Wares of one's own last so many days.
const WARES_DAYS: f32 = 4.0;
/// Who has a trade that pays too little looks for another one, at the market, once in so many turns.
const LOOKS_FOR_WORK: u32 = 300;
/// Who has none, more often.
const SEEKS_WORK: u32 = 30;

event! {
    /// Somebody took up a trade.
    pub struct Hired("hired") {
        /// A coin that their goods fetch now.
        price: f32,
        /// Which.
        trade: Trade,
        /// Which they had before.
        before: Trade,
        /// The quarter of the town.
        place: u16,
    }
}

type Worker = (
    &'static Uid,
    Write<Needs>,
    Write<Mood>,
    Write<Pack>,
    Write<Occupation>,
    &'static Goal,
    &'static Position,
    &'static Purse,
    &'static Traits,
);

/// What those whose turn it is do where they are.
#[expect(clippy::too_many_arguments, reason = "much is done in a town")]
pub(crate) fn act(
    turn: Turn,
    customs: Res<Customs>,
    market: Res<Market>,
    map: Res<everworld_components::TownMap>,
    random: Random,
    bids: Emit<Bid>,
    hired: Emit<Hired>,
    mut people: Rows<Worker>,
) {
    let hours = turn.ticks() as f32 / 60.0;
    let wear = turn.ticks() as f32 / (1_440.0 * WARES_DAYS);
    people.for_each(
        |(uids, mut needs, mut moods, mut packs, mut works, goals, positions, purses, traits)| {
            for i in turn.rows(uids) {
                if !is_there(&goals[i], &positions[i]) {
                    continue;
                }
                let (uid, pack) = (uids[i], packs[i]);
                match goals[i].action {
                    Action::Eat if pack.food > 0 && needs[i].hunger > 0.2 => {
                        packs.set(i, Pack { food: pack.food - 1, ..pack });
                        let hunger = math::unit32(needs[i].hunger - MEAL);
                        needs.set(i, Needs { hunger, ..needs[i] });
                        moods.set(i, Mood { valence: (moods[i].valence + 0.05).min(1.0), ..moods[i] });
                        explain!(uid, "eats; {} meals are left", pack.food - 1);
                    }
                    Action::Work => {
                        let yields = works[i].trade.yields();
                        let per_hour = match yields {
                            Yield::Food => customs.meals_per_hour,
                            Yield::Wares => customs.wares_per_hour,
                            _ => continue,
                        };
                        let pieces = per_hour * hours * (0.75 + f32::from(works[i].skill) / 512.0);
                        let mut draws = random.of(uid);
                        let made = pieces as u16 + u16::from(draws.chance(pieces.fract()));
                        let mut pack = pack;
                        let own = if yields == Yield::Food { &mut pack.food } else { &mut pack.wares };
                        *own = own.saturating_add(made).min(PACK_MAX.max(*own));
                        packs.set(i, pack);
                    }
                    Action::Trade => {
                        let mut draws = random.of(uid);
                        let bid = bid_of(&works[i], &pack, &purses[i], &market);
                        if bid != Bid::default() {
                            bids.emit(uid, bid);
                            explain!(uid, "comes to the market with {bid:?}");
                        }
                        let (trade, price) = better_trade(works[i].trade, &market, &customs);
                        let often = if works[i].trade == Trade::None { SEEKS_WORK } else { LOOKS_FOR_WORK };
                        // Who is open to new things rather does.
                        let eager = 0.5 + traits[i].openness;
                        if trade != works[i].trade && draws.chance(eager / often as f32) {
                            let before = works[i].trade;
                            let lasts = works[i].lasts.max(32);
                            works.set(i, Occupation { trade, lasts, ..works[i] });
                            let place = map.quarter(positions[i].x, positions[i].y);
                            hired.emit(uid, Hired { price, trade, before, place });
                        }
                    }
                    Action::Sleep
                        if pack.wares > 0 && random.of(uid).chance(wear * f32::from(pack.wares)) =>
                    {
                        packs.set(i, Pack { wares: pack.wares - 1, ..pack });
                    }
                    _ => {}
                }
            }
        },
    );
}

/// What someone came to the market for.
fn bid_of(work: &Occupation, pack: &Pack, purse: &Purse, market: &Market) -> Bid {
    // What an input may have put into a pack comes in loads, too.
    let sells = produce(work, pack).min(PACK_MAX);
    let is = |yields| work.trade.yields() == yields;
    let lack = |own: u16, has: u16, makes: bool| if makes { 0 } else { own.saturating_sub(has) };
    let dear = |good: usize| market.cost(good).saturating_mul(4);
    Bid {
        sells_food: if is(Yield::Food) { sells } else { 0 },
        sells_wares: if is(Yield::Wares) { sells } else { 0 },
        wants_food: lack(OWN_FOOD, pack.food, is(Yield::Food)),
        // Wares are for those who can afford them.
        wants_wares: if u64::from(purse.coins) > dear(1) + dear(0) {
            lack(OWN_WARES, pack.wares, is(Yield::Wares)).min(1)
        } else {
            0
        },
        coins: purse.coins,
        alms: u32::from(u64::from(purse.coins) < market.cost(0) && pack.food == 0),
    }
}

/// A trade of goods whose price is worth a change, with that price: for whoever has none, any.
fn better_trade(now: Trade, market: &Market, customs: &Customs) -> (Trade, f32) {
    let rate = |good: usize| market.price[good] / customs.base_price[good].max(1e-9);
    let own = match now.yields() {
        Yield::Food => rate(0),
        Yield::Wares => rate(1),
        Yield::Nothing if now == Trade::None => 0.0,
        _ => return (now, 0.0),
    };
    let (good, best) = if rate(0) >= rate(1) { (0, rate(0)) } else { (1, rate(1)) };
    let trade = if good == 0 { Trade::Farmer } else { Trade::Weaver };
    if best > 2.0 * own { (trade, market.price[good] as f32) } else { (now, 0.0) }
}

type Servant = (&'static Uid, Write<Purse>, &'static Occupation, &'static Goal, &'static Position);

/// Pays the town's servants who are at work when their day ends.
pub(crate) fn pay(
    turn: Turn,
    day: Res<Day>,
    market: Res<Market>,
    mut treasury: ResMut<Treasury>,
    mut people: Rows<Servant>,
) {
    let (minute, wage) = (day.minute, market.wage);
    let paid: i64 = people.sum(|(uids, mut purses, works, goals, positions)| {
        let mut paid = 0;
        for i in turn.rows(uids) {
            let work = &works[i];
            let ends = (u64::from(work.starts) + u64::from(work.lasts)) * 15;
            // One of its turns comes within that many minutes.
            let is_end = minute + 1 >= ends && minute + 1 < ends + turn.ticks();
            if !is_end || work.trade.yields() != Yield::Service {
                continue;
            }
            let at_work = goals[i].action == Action::Work && is_there(&goals[i], &positions[i]);
            let what = if at_work { "at work: the wage is paid" } else { "elsewhere: no wage is paid" };
            explain!(uids[i], "the working day ends {what} ({wage} coins)");
            if at_work && wage > 0 {
                let purse = purses.row_mut(i);
                let gets = wage.min(u32::MAX - purse.coins);
                purse.coins += gets;
                paid += i64::from(gets);
            }
        }
        paid
    });
    if paid != 0 {
        treasury.coins -= paid;
    }
}
