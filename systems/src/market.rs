//! The market: what people bring and buy, for prices that follow supply and demand; and the count of who is about what.
//!
//! Prices move by tâtonnement (Walras 1874, "Éléments d'économie politique pure"; Samuelson 1941, "The stability of
//! equilibrium"): in each hour by what was wanted over what was offered, and by what is in store over what should be. Coins
//! only change hands: those of all purses, the till and the treasury together stay the same.

use crate::{
    mind::{MARKET_CLOSES, MARKET_OPENS},
    needs::{STARVING, is_there},
};
use everworld_components::{
    Action, Census, Customs, Day, Goal, Market, Needs, Occupation, Pack, Position, Purse, Treasury, Yield,
};
use everworld_engine::{event, prelude::*};

/// Of what is paid, one in so many coins is the town's.
const TAX: u64 = 5;
/// In store there should be so many pieces of each good for each of the people.
const STORE: [f64; 2] = [1.0, 0.3];
/// The market takes no more than so many times that.
const STORE_MAX: f64 = 4.0;
/// In an hour a price moves by the excess to this power.
const STIFFNESS: f64 = 0.04;
/// Prices stay within this part, and this multiple, of what is common.
const PRICE_RANGE: (f64, f64) = (0.2, 8.0);
const HOUR: u64 = 60;

event! {
    /// What somebody came to the market for.
    pub struct Bid("bid") {
        /// Coins that they have.
        coins: u32,
        /// 1 when they have nothing at all, and ask for a meal's worth.
        alms: u32,
        /// Meals brought.
        sells_food: u16,
        /// Wares brought.
        sells_wares: u16,
        /// Meals wanted.
        wants_food: u16,
        /// Wares wanted.
        wants_wares: u16,
    }
}
event! {
    /// Somebody traded at the market.
    pub struct Traded("traded") {
        /// Coins gained; lost where it is negative.
        coins: i32,
        /// Meals gained or lost.
        food: i16,
        /// Wares gained or lost.
        wares: i16,
    }
}

/// Serves those who came, in an order that is drawn: sellers first, then buyers, each as far as till, store and purse reach.
pub(crate) fn clear(
    random: Random,
    census: Res<Census>,
    bids: Res<Happened<Bid>>,
    mut market: ResMut<Market>,
    mut treasury: ResMut<Treasury>,
    traded: Emit<Traded>,
) {
    if bids.is_empty() {
        return;
    }
    let mut all: Vec<(Uid, Bid, Traded)> =
        bids.iter().map(|(uid, bid)| (uid, *bid, Traded::default())).collect();
    random.of(Uid::new(0)).shuffle(&mut all);
    let mut books = *market;
    for (_, bid, done) in &mut all {
        for (good, offered) in [bid.sells_food, bid.sells_wares].into_iter().enumerate() {
            let room = (census.people as f64 * STORE[good] * STORE_MAX) as u64 + 1;
            let room = room.saturating_sub(books.stock[good]);
            // What the till can pay.
            let payable = books.till.max(0) as u64 / books.cost(good);
            // And what a purse has room for.
            let has = (i64::from(bid.coins) + i64::from(done.coins)) as u64;
            let holds = u64::from(u32::MAX).saturating_sub(has) / books.cost(good);
            let sold = u64::from(offered).min(room).min(payable).min(holds);
            books.offered[good] += u64::from(offered);
            books.stock[good] += sold;
            let coins = (sold * books.cost(good)) as i64;
            books.till -= coins;
            done.coins += coins as i32;
            *[&mut done.food, &mut done.wares][good] -= sold as i16;
        }
    }
    let mut taxes = 0;
    for (_, bid, done) in &mut all {
        let mut purse = i64::from(bid.coins) + i64::from(done.coins);
        let meal = books.cost(0) as i64;
        if bid.alms > 0 && purse < meal && treasury.coins - taxes >= meal {
            taxes -= meal;
            purse += meal;
            done.coins += meal as i32;
        }
        for (good, wanted) in [bid.wants_food, bid.wants_wares].into_iter().enumerate() {
            let affordable = purse.max(0) as u64 / books.cost(good);
            let bought = u64::from(wanted).min(books.stock[good]).min(affordable);
            // Who cannot pay does not count.
            books.wanted[good] += u64::from(wanted).min(affordable);
            books.stock[good] -= bought;
            let coins = (bought * books.cost(good)) as i64;
            let tax = coins / TAX as i64;
            (purse, taxes, books.till) = (purse - coins, taxes + tax, books.till + coins - tax);
            done.coins -= coins as i32;
            *[&mut done.food, &mut done.wares][good] += bought as i16;
        }
    }
    *market = books;
    treasury.coins += taxes;
    for (uid, _, done) in all.into_iter().filter(|(.., done)| *done != Traded::default()) {
        traded.emit(uid, done);
    }
}

/// Hands over what was traded.
pub(crate) fn receive(
    index: Res<UidIndex>,
    traded: Res<Happened<Traded>>,
    mut people: Rows<(&'static Uid, Write<Purse>, Write<Pack>)>,
) {
    people.for_those(&index, &traded, |(uids, mut purses, mut packs), traded| {
        for (i, done) in traded {
            let (i, Traded { coins, food, wares }) = (*i, **done);
            let purse = purses.row_mut(i);
            purse.coins = purse.coins.checked_add_signed(coins).expect("nobody spends what they do not have");
            let pack = packs[i];
            let food = pack.food.checked_add_signed(food).expect("nobody sells what they do not have");
            let wares = pack.wares.checked_add_signed(wares).expect("nobody sells what they do not have");
            packs.set(i, Pack { food, wares });
            explain!(uids[i], "trades: {} coins, {} meals, {} wares", coins, done.food, done.wares);
        }
    });
}

/// Sets prices each hour, and at midnight what the town pays its servants.
pub(crate) fn price(
    day: Res<Day>,
    customs: Res<Customs>,
    census: Res<Census>,
    treasury: Res<Treasury>,
    mut market: ResMut<Market>,
) {
    if !day.minute.is_multiple_of(HOUR) {
        return;
    }
    let mut books = *market;
    let is_open = (MARKET_OPENS..=MARKET_CLOSES).contains(&day.minute);
    for good in (0..books.price.len()).filter(|_| is_open) {
        let (wanted, offered) = (books.wanted[good] as f64 + 1.0, books.offered[good] as f64 + 1.0);
        let store = census.people as f64 * STORE[good] + 1.0;
        let excess =
            (wanted / offered).clamp(0.25, 4.0) * (store / (books.stock[good] as f64 + 1.0)).clamp(0.25, 4.0);
        let (low, high) =
            (customs.base_price[good] * PRICE_RANGE.0, customs.base_price[good] * PRICE_RANGE.1);
        books.price[good] =
            (books.price[good] * math::pow64(excess, STIFFNESS)).clamp(low.max(1.0), high.max(1.0));
    }
    (books.wanted, books.offered) = ([0; 2], [0; 2]);
    if day.minute == 0 {
        // What there is, over ten days.
        let each = treasury.coins.max(0) as u64 / census.servants.max(1) / 10;
        books.wage = (each.min(u64::from(customs.wage))) as u32;
    }
    *market = books;
}

type Counted = (&'static Goal, &'static Position, &'static Needs, &'static Occupation);

/// Counts.
pub(crate) fn count(mut census: ResMut<Census>, mut people: Rows<Counted>) {
    let counts: [u64; 6] = people.sum(|(goals, positions, needs, works)| {
        let mut counts = [0; 6];
        for (i, goal) in goals.iter().enumerate() {
            let there = is_there(goal, &positions[i]);
            counts[0] += 1;
            counts[1] += u64::from(!(goal.action == Action::Sleep && there));
            counts[2] += u64::from(goal.action == Action::Work && there);
            counts[3] += u64::from(goal.action == Action::Trade && there);
            counts[4] += u64::from(needs[i].hunger >= STARVING);
            counts[5] += u64::from(works[i].trade.yields() == Yield::Service);
        }
        counts
    });
    let [people, awake, at_work, at_market, starving, servants] = counts;
    *census = Census { people, awake, at_work, at_market, starving, servants };
}
