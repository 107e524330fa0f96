//! rank POLICY_DIR: ranks 40 made-up candidates by the C ABI and prints the page: a candidate and the bits of its score a
//! line.
use std::ffi::{c_char, c_void, CStr, CString};
use std::mem::{size_of, zeroed};
use std::ptr::null_mut;

#[repr(C)]
struct Options {
    size: usize,
    flags: u32,
    seed: u32,
    error: *mut c_char,
    error_size: usize,
}

#[repr(C)]
struct Request {
    size: usize,
    context: *const f32,
    features: usize,
    predictions: *const f32,
    candidates: usize,
    tasks: usize,
    rules: [usize; 6], // mask … group_columns
    scenario: [usize; 2],
    draw: u64,
    flags: [u32; 2],
    values: *const f32,
    item_values: *const f32,
    error: *mut c_char,
    error_size: usize,
    more: [usize; 7], // items … item_ids
}

#[repr(C)]
struct Page {
    size: usize,
    k: usize,
    values: *mut f32,
    indices: *mut i32,
    weights: [usize; 2],
    counts: [i32; 4],
    seed: u64,
    policy_version: [u8; 16],
    trust: f32,
    verdict: i32,
    baseline: [u8; 64],
    searched: [i32; 2],
}

extern "C" {
    fn pygrade_ranker_load(directory: *const c_char, options: *const Options, ranker: *mut *mut c_void) -> i32;
    fn pygrade_ranker_free(ranker: *mut c_void);
    fn pygrade_ranker_num_features(ranker: *const c_void) -> usize;
    fn pygrade_ranker_num_tasks(ranker: *const c_void) -> usize;
    fn pygrade_ranker_rank(ranker: *mut c_void, request: *const Request, page: *mut Page) -> i32;
}

fn main() {
    let Some(directory) = std::env::args().nth(1) else {
        eprintln!("usage: rank POLICY_DIR");
        std::process::exit(2);
    };
    let path = CString::new(directory).expect("a path has no 0");
    let mut error = [0 as c_char; 256];
    let (text, mut ranker) = (error.as_mut_ptr(), null_mut());
    let check = |status: i32| {
        if status != 0 {
            eprintln!("{}", unsafe { CStr::from_ptr(text) }.to_string_lossy());
            std::process::exit(2);
        }
    };
    unsafe {
        let options = Options { size: size_of::<Options>(), flags: 0, seed: 0, error: text, error_size: 256 };
        check(pygrade_ranker_load(path.as_ptr(), &options, &mut ranker));
        let context = vec![0.5; pygrade_ranker_num_features(ranker)];
        let tasks = pygrade_ranker_num_tasks(ranker);
        let prices: Vec<f32> = (0..40).map(|i| (1 + i % 8) as f32).collect();
        let predictions: Vec<f32> = (0..40 * tasks).map(|i| (1 + i * 7 % 50) as f32 / 64.0).collect();
        let mut request: Request = zeroed();
        (request.size, request.error, request.error_size) = (size_of::<Request>(), text, 256);
        (request.context, request.features) = (context.as_ptr(), context.len());
        (request.predictions, request.candidates, request.tasks) = (predictions.as_ptr(), 40, tasks);
        request.item_values = prices.as_ptr();
        let (mut scores, mut indices) = ([0f32; 10], [0i32; 10]);
        let mut page: Page = zeroed();
        (page.size, page.k) = (size_of::<Page>(), 10);
        (page.values, page.indices) = (scores.as_mut_ptr(), indices.as_mut_ptr());
        check(pygrade_ranker_rank(ranker, &request, &mut page));
        for (index, score) in indices.iter().zip(scores) {
            println!("{index} {:08x}", score.to_bits());
        }
        pygrade_ranker_free(ranker);
    }
}
