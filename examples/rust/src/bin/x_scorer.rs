//! x_scorer POLICY_DIR POSTS PAGES: pygrade in the place of `RankingScorer::score` of X (docs/guides/x-value-model.md).
//! POSTS has a row of f32 for each post, `POOL` posts a request; PAGES gets the places of the best ones as i32.
use pygrade::{Error, Ranker, Request};

const HEADS: usize = 26; // X's, in the order of the policy's tasks
const POOL: usize = 60;
const PAGE: usize = 20;

/// A candidate, as X's scorer has it.
struct Post {
    predictions: [f32; HEADS],
    flags: [f32; 4], // item columns of the policy: out_of_network, is_original, is_video, mutual_original
    author: i32,
}

struct RankingScorer {
    ranker: Ranker,
}

impl RankingScorer {
    /// The page of a viewer, best first. X sums weight · prediction here, with a boost of replies for mutual follows.
    fn score(&self, hour: f32, posts: &[Post]) -> Result<Vec<i32>, Error> {
        let predictions: Vec<f32> = posts.iter().flat_map(|post| post.predictions).collect();
        let items: Vec<f32> = posts.iter().flat_map(|post| post.flags).collect();
        let taxed = |post: &Post| post.flags[0] == 1.0 || post.flags[1] == 0.0; // out of network, or no original
        let factors: Vec<f32> = posts.iter().map(|post| if taxed(post) { 0.75 } else { 1.0 }).collect();
        let authors: Vec<i32> = posts.iter().map(|post| post.author).collect();
        let request = Request {
            context: Some(&[hour]),
            predictions: &predictions,
            items: Some(&items),
            boost_mul: Some(&factors),
            groups: Some(&authors),
            caps: Some(&[-1]), // as many posts of an author as there are, each at half for every one above it
            decay: Some(&[0.5]),
            ..Default::default()
        };
        Ok(self.ranker.rank(&request, PAGE)?.indices)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [policy, posts, pages] = arguments.as_slice() else { return Err("expected POLICY_DIR POSTS PAGES".into()) };
    let scorer = RankingScorer { ranker: Ranker::load(policy)? };
    let bytes = std::fs::read(posts)?;
    let numbers: Vec<f32> = bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
    let candidate = |row: &[f32]| Post {
        predictions: row[..HEADS].try_into().unwrap(),
        flags: row[HEADS..HEADS + 4].try_into().unwrap(),
        author: row[HEADS + 4] as i32,
    };
    let posts: Vec<Post> = numbers.chunks_exact(HEADS + 5).map(candidate).collect();
    let ranked: Result<Vec<_>, _> =
        posts.chunks_exact(POOL).zip(0..).map(|(pool, at)| scorer.score(at as f32 % 24.0, pool)).collect();
    std::fs::write(pages, ranked?.concat().iter().flat_map(|place| place.to_le_bytes()).collect::<Vec<u8>>())?;
    println!("Rust: pages of {} posts in the place of X's scorer", posts.len());
    Ok(())
}
