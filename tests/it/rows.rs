//! All rows of a world as CSV, Arrow and NDJSON, and a population that comes in as such.

use crate::support::{Server, fetch};
use arrow_ipc::reader::StreamReader;
use serde_json::{Value, json};
use std::{collections::BTreeSet, io::Cursor};

const CSV: &str = "text/csv";
const ARROW: &str = "application/vnd.apache.arrow.stream";
const NDJSON: &str = "application/x-ndjson";

fn export(server: &Server, world: &str, media: &str, query: &str) -> Vec<u8> {
    // The view of the newest tick, also right after a pause.
    let tick = &server.get(&format!("/v1/worlds/{world}")).1["tick"];
    let path = format!("/v1/worlds/{world}/entities?min_tick={tick}{query}");
    let (status, headers, body) = fetch(server, "GET", &path, &[("accept", media)], b"");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    assert!(headers.contains(&format!("content-type: {media}")), "{headers}");
    body
}

fn lines(body: &[u8]) -> Vec<Value> {
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn import(server: &Server, world: &str, media: &str, query: &str, body: &[u8]) -> (u16, Value) {
    let path = format!("/v1/worlds/{world}/import{query}");
    let (status, _, body) = fetch(server, "POST", &path, &[("content-type", media)], body);
    (status, serde_json::from_slice(&body).unwrap())
}

/// A value as JSON has it.
fn written(value: &Value) -> String {
    value.to_string()
}

/// A value of an Arrow column, as JSON.
fn value_of(column: &arrow_array::ArrayRef, row: usize) -> Value {
    let any = column.as_any();
    if column.is_null(row) {
        Value::Null
    } else if let Some(numbers) = any.downcast_ref::<arrow_array::Float32Array>() {
        // As JSON has numbers of 32 bits: by their shortest text.
        serde_json::from_str(&serde_json::to_string(&numbers.value(row)).unwrap()).unwrap()
    } else if let Some(numbers) = any.downcast_ref::<arrow_array::Float64Array>() {
        json!(numbers.value(row))
    } else if let Some(numbers) = any.downcast_ref::<arrow_array::UInt64Array>() {
        json!(numbers.value(row))
    } else if let Some(numbers) = any.downcast_ref::<arrow_array::Int64Array>() {
        json!(numbers.value(row))
    } else {
        json!(any.downcast_ref::<arrow_array::StringArray>().unwrap().value(row))
    }
}

#[test]
fn rows_go_out_in_each_format_and_come_in_again() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    assert_eq!(server.post("/v1/worlds/town/pause", "").0, 202);
    let rows = lines(&export(&server, "town", NDJSON, ""));
    assert_eq!(rows.len(), 300);

    let text = export(&server, "town", CSV, "");
    let mut reader = csv::Reader::from_reader(&text[..]);
    let heads = reader.headers().unwrap().clone();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 300);
    let hunger = heads.iter().position(|head| head == "needs.hunger").unwrap();
    let hunger_of = |uid: &Value| {
        let row = rows.iter().find(|row| row["uid"] == *uid).unwrap();
        row["components"]["needs"]["hunger"].as_f64().unwrap()
    };
    for record in &records {
        assert_eq!(record[hunger].parse::<f64>().unwrap(), hunger_of(&json!(record[0])));
    }
    // Each value of each row is that of the lines; what is text in JSON is without its quotes, but in slow components.
    let told = |uid: &str, head: &str| -> Value {
        let row = rows.iter().find(|row| row["uid"] == uid).unwrap();
        row["components"].pointer(&format!("/{}", head.replace('.', "/"))).cloned().unwrap_or_default()
    };
    for record in &records {
        for (head, found) in heads.iter().zip(record).skip(1) {
            let same = match told(&record[0], head) {
                Value::Null => found.is_empty(),
                Value::String(text) => [text.clone(), written(&json!(text))].contains(&found.to_owned()),
                value => written(&value) == found,
            };
            assert!(same, "{head} of {} is {found}, in JSON {}", &record[0], told(&record[0], head));
        }
    }
    let arrow = export(&server, "town", ARROW, "");
    for batch in StreamReader::try_new(Cursor::new(arrow), None).unwrap().map(Result::unwrap) {
        let uids = batch.column(0).as_any().downcast_ref::<arrow_array::UInt64Array>().unwrap();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()).skip(1) {
            for row in 0..batch.num_rows() {
                let wanted = told(&uids.value(row).to_string(), field.name());
                let found = value_of(column, row);
                let same = found == wanted
                    || found.as_str().is_some_and(|found| written(&wanted) == found)
                    || wanted.as_str().is_some_and(|wanted| written(&found) == wanted);
                assert!(same, "{} of {} is {found}, in JSON {wanted}", field.name(), uids.value(row));
            }
        }
    }

    let arrow = export(&server, "town", ARROW, "&select=needs.hunger,name");
    let reader = StreamReader::try_new(Cursor::new(arrow), None).unwrap();
    let schema = reader.schema();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["uid", "needs.hunger", "name"]);
    let batches: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(arrow_array::RecordBatch::num_rows).sum::<usize>(), 300);
    for batch in &batches {
        let uids = batch.column(0).as_any().downcast_ref::<arrow_array::UInt64Array>().unwrap();
        let hungers = batch.column(1).as_any().downcast_ref::<arrow_array::Float32Array>().unwrap();
        for row in 0..batch.num_rows() {
            let wanted = hunger_of(&json!(uids.value(row).to_string()));
            assert_eq!(hungers.value(row), wanted as f32);
        }
    }
    // Nobody is a header, or a schema.
    let nobody = export(&server, "town", CSV, "&select=needs.hunger&where=needs.hunger%3E9");
    assert_eq!(nobody, b"uid,needs.hunger\n");
    let nobody = export(&server, "town", ARROW, "&where=needs.hunger%3E9");
    assert_eq!(StreamReader::try_new(Cursor::new(nobody), None).unwrap().count(), 0);

    // Another world takes them over.
    for (world, media, body) in [("csv", CSV, &text), ("lines", NDJSON, &export(&server, "town", NDJSON, ""))]
    {
        let made = json!({"name": world, "scenario": "town", "population": 20}).to_string();
        assert_eq!(server.post("/v1/worlds", &made).0, 201);
        assert_eq!(server.post(&format!("/v1/worlds/{world}/pause"), "").0, 202);
        let first = lines(&export(&server, world, NDJSON, "&select=name"));
        let (status, answer) = import(&server, world, media, "", body);
        assert_eq!((status, &answer["accepted"]), (202, &json!(300)), "{answer}");
        assert_eq!(server.post(&format!("/v1/worlds/{world}/step"), r#"{"ticks": 1}"#).0, 202);
        server
            .until(|server| (server.get(&format!("/v1/worlds/{world}")).1["entities"] == 320).then_some(()));
        // What that tick made of them is its own affair: their names it leaves alone.
        let rows = lines(&export(&server, world, NDJSON, "&select=name"));
        let names = |rows: &[Value]| -> BTreeSet<String> {
            rows.iter()
                .filter(|row| first.iter().all(|known| known["uid"] != row["uid"]))
                .map(|row| row["components"]["name"].to_string())
                .collect()
        };
        let town = lines(&export(&server, "town", NDJSON, "&select=name"));
        assert_eq!(names(&rows), town.iter().map(|row| row["components"]["name"].to_string()).collect());
    }
}

#[test]
fn a_population_is_looked_at_before_the_first_of_it_is_taken() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path(), &[]);
    let check = |media: &str, query: &str, body: &str, status: u16, place: &str| {
        let (found, answer) = import(&server, "town", media, query, body.as_bytes());
        assert_eq!(found, status, "{answer}");
        let told = answer.to_string();
        assert!(told.contains(place), "{told}");
    };
    let good = "prototype,needs.hunger\ntownsman,0.5\n";
    check(CSV, "", "prototype,needs.hungr\ntownsman,0.5\n", 422, "/1/needs.hungr");
    check(CSV, "", &format!("{good}townsman,lots\n"), 422, "/3/needs.hunger");
    check(CSV, "", &format!("{good}townsman,7\n"), 422, "/3/components/needs/hunger");
    check(CSV, "", "", 400, "no rows");
    check(CSV, "", "needs.hunger\n0.5,0.6\n", 400, "CSV");
    check(CSV, "?prototype=dragon", "needs.hunger\n0.5\n", 422, "/2/prototype");
    check(
        NDJSON,
        "",
        "{\"components\": {}}\n\n{\"components\": {\"needs\": {\"hunger\": 7}}}\n",
        422,
        "/3/components",
    );
    check(NDJSON, "", "{\"components\": {}}\n{\"name\": 7}\n", 400, "line 2");
    check("application/json", "", "{}", 415, "Content-Type");
    assert_eq!(server.get("/v1/worlds/town").1["entities"], 300);

    // Whoever tries again adds nothing twice.
    let body = format!("needs.hunger\n{}", "0.25\n".repeat(2_500));
    let headers = [("content-type", CSV), ("idempotency-key", "people")];
    let path = "/v1/worlds/town/import?prototype=townsman";
    let (status, _, first) = fetch(&server, "POST", path, &headers, body.as_bytes());
    assert_eq!(status, 202);
    let (status, _, second) = fetch(&server, "POST", path, &headers, body.as_bytes());
    assert_eq!((status, &second), (202, &first));
    let first: Value = serde_json::from_slice(&first).unwrap();
    assert_eq!(first["seqs"].as_array().map(Vec::len), Some(3));
    server.until(|server| (server.get("/v1/worlds/town").1["entities"] == 2_800).then_some(()));
}
