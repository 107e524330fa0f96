//! rank POLICY_DIR REQUESTS PAGES: ranks every request of a file and writes the pages, both in the format of
//! examples/request_file.py, in several threads while the policy is reloaded. For a little-endian machine.
use pygrade::{stable_id, Page, Ranker, Request};
use std::{env, error::Error, fs, process, thread};

const CONTEXT: u32 = 1;
const MASK: u32 = 2;
const BOOST_MUL: u32 = 4;
const BOOST_ADD: u32 = 8;
const GROUPS: u32 = 16;
const SCENARIO: u32 = 32;
const EXPLORE: u32 = 64;
const VALUES: u32 = 128;
const ITEM_VALUES: u32 = 256;
const NAMES: u32 = 512;

struct Reader {
    content: Vec<u8>,
    at: usize,
}

impl Reader {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let taken = self.content[self.at..self.at + count].to_vec();
        self.at += count.div_ceil(4) * 4;
        taken
    }
    fn words<T>(&mut self, count: usize, from: fn([u8; 4]) -> T) -> Vec<T> {
        self.bytes(4 * count).chunks_exact(4).map(|word| from(word.try_into().unwrap())).collect()
    }
}

/// A request that owns its arrays.
struct Owned {
    k: usize,
    context: Option<Vec<f32>>,
    predictions: Vec<f32>,
    mask: Option<Vec<u8>>,
    boost_mul: Option<Vec<f32>>,
    boost_add: Option<Vec<f32>>,
    groups: Option<Vec<i32>>,
    caps: Option<Vec<i32>>,
    values: Option<Vec<f32>>,
    item_values: Option<Vec<f32>>,
    item_ids: Option<Vec<i64>>,
    scenario: Option<String>,
    draw: Option<u64>,
}

impl Owned {
    fn read(from: &mut Reader, features: usize, tasks: usize) -> Self {
        let head = from.words(7, u32::from_le_bytes);
        let (n, parts, columns) = (head[0] as usize, head[2], head[3] as usize);
        let floats = |bit: u32, count: usize, from: &mut Reader| {
            (bit == 0 || parts & bit != 0).then(|| from.words(count, f32::from_le_bytes))
        };
        Self {
            k: head[1] as usize,
            context: floats(CONTEXT, features, from),
            predictions: floats(0, n * tasks, from).unwrap(),
            mask: (parts & MASK != 0).then(|| from.bytes(n)),
            boost_mul: floats(BOOST_MUL, n, from),
            boost_add: floats(BOOST_ADD, n, from),
            groups: (parts & GROUPS != 0).then(|| from.words(n * columns, i32::from_le_bytes)),
            caps: (parts & GROUPS != 0).then(|| from.words(columns, i32::from_le_bytes)),
            values: floats(VALUES, tasks, from),
            item_values: floats(ITEM_VALUES, n, from),
            item_ids: (parts & NAMES != 0).then(|| {
                from.bytes(8 * n).chunks_exact(8).map(|name| stable_id(std::str::from_utf8(name).unwrap())).collect()
            }),
            scenario: (parts & SCENARIO != 0).then(|| String::from_utf8(from.bytes(head[4] as usize)).unwrap()),
            draw: (parts & EXPLORE != 0).then(|| u64::from(head[5]) << 32 | u64::from(head[6])),
        }
    }
    fn request(&self) -> Request<'_> {
        Request {
            context: self.context.as_deref(),
            predictions: &self.predictions,
            mask: self.mask.as_deref(),
            boost_mul: self.boost_mul.as_deref(),
            boost_add: self.boost_add.as_deref(),
            groups: self.groups.as_deref(),
            caps: self.caps.as_deref(),
            scenario: self.scenario.as_deref(),
            explore: self.draw.is_some(),
            draw: self.draw,
            values: self.values.as_deref(),
            item_values: self.item_values.as_deref(),
            item_ids: self.item_ids.as_deref(),
            ..Default::default()
        }
    }
}

fn append(out: &mut Vec<u8>, page: &Page) {
    let head = [page.indices.len() as u32, page.filled as u32, page.fallback.into(), page.explored.into()];
    let more = [(page.draw >> 32) as u32, page.draw as u32, page.missing_items as u32];
    out.extend(head.iter().chain(&more).flat_map(|word| word.to_le_bytes()));
    out.extend(page.mixture_weight.to_le_bytes());
    out.extend(page.policy_version.as_bytes());
    out.extend(page.values.iter().flat_map(|value| value.to_le_bytes()));
    out.extend(page.indices.iter().flat_map(|index| index.to_le_bytes()));
    out.extend(page.weights.iter().chain(&page.concentration).flat_map(|value| value.to_le_bytes()));
}

fn run(directory: &str, requests: &str, pages: &str) -> Result<(), Box<dyn Error>> {
    let ranker = Ranker::load(directory)?;
    let mut reader = Reader { content: fs::read(requests)?, at: 8 };
    let head = reader.words(3, u32::from_le_bytes);
    let owned: Vec<Owned> =
        (0..head[0]).map(|_| Owned::read(&mut reader, head[1] as usize, head[2] as usize)).collect();
    let ranked = thread::scope(|scope| {
        let workers: Vec<_> = owned
            .chunks(owned.len().div_ceil(4).max(1))
            .map(|part| {
                let rank = |request: &Owned| ranker.rank(&request.request(), request.k);
                scope.spawn(move || part.iter().map(rank).collect::<Result<Vec<_>, _>>())
            })
            .collect();
        for _ in 0..10 {
            ranker.reload(directory)?;
        }
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Result<Vec<_>, _>>()
    })?;
    let mut out = b"PGPAG001".to_vec();
    out.extend([head[0], head[2]].iter().flat_map(|word| word.to_le_bytes()));
    ranked.iter().flatten().for_each(|page| append(&mut out, page));
    fs::write(pages, out)?;
    println!("Rust: {} pages by pygrade {}", head[0], pygrade::version());
    Ok(())
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let [_, directory, requests, pages] = arguments.as_slice() else {
        eprintln!("usage: rank POLICY_DIR REQUESTS PAGES");
        process::exit(2);
    };
    if let Err(error) = run(directory, requests, pages) {
        eprintln!("{error}");
        process::exit(2);
    }
}
