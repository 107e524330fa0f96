//! Ranks by a policy that pygrade trained, through its C ABI.
//!
//! ```no_run
//! let ranker = pygrade::Ranker::load("policy")?;
//! let predictions = [0.1, 0.9, 0.5, 0.2, 0.3, 0.3]; // three candidates, two tasks
//! let request = pygrade::Request { context: Some(&[0.5]), predictions: &predictions, ..Default::default() };
//! println!("{:?}", ranker.rank(&request, 2)?.indices);
//! # Ok::<(), pygrade::Error>(())
//! ```
use std::ffi::{c_char, c_void, CStr, CString};
use std::fmt;
use std::mem::{size_of, zeroed};
use std::ptr::{null, null_mut};

/// The declarations of <pygrade/pygrade.h> that a ranker needs.
mod ffi {
    use super::{c_char, c_void};

    #[repr(C)]
    pub struct Options {
        pub size: usize,
        pub flags: u32,
        pub seed: u32,
        pub error: *mut c_char,
        pub error_size: usize,
    }

    #[repr(C)]
    pub struct PolicySource {
        pub size: usize,
        pub directory: *const c_char,
        pub json: *const c_char,
        pub json_size: usize,
        pub tensors: *const c_void,
        pub tensors_size: usize,
        pub error: *mut c_char,
        pub error_size: usize,
    }

    #[repr(C)]
    pub struct Request {
        pub size: usize,
        pub context: *const f32,
        pub features: usize,
        pub predictions: *const f32,
        pub candidates: usize,
        pub tasks: usize,
        pub mask: *const u8,
        pub boost_mul: *const f32,
        pub boost_add: *const f32,
        pub groups: *const i32,
        pub caps: *const i32,
        pub group_columns: usize,
        pub scenario: *const c_char,
        pub scenario_size: usize,
        pub draw: u64,
        pub flags: u32,
        pub reserved: u32,
        pub values: *const f32,
        pub item_values: *const f32,
        pub error: *mut c_char,
        pub error_size: usize,
        pub items: *const f32,
        pub item_columns: usize,
        pub categories: *const *const c_char,
        pub embeddings: *const f32,
        pub embedding_size: usize,
        pub item_ids: *const i64,
        pub cap_slots: *const i32,
        pub decay: *const f32,
        pub production_scores: *const f32,
        pub pins: *const i32,
        pub demoted: *const u8,
    }

    #[repr(C)]
    pub struct Page {
        pub size: usize,
        pub k: usize,
        pub values: *mut f32,
        pub indices: *mut i32,
        pub weights: *mut f32,
        pub concentration: *mut f32,
        pub filled: i32,
        pub missing_predictions: i32,
        pub fallback: i32,
        pub explored: i32,
        pub seed: u64,
        pub policy_version: [c_char; 16],
        pub mixture_weight: f32,
        pub verdict: i32,
        pub baseline: [c_char; 64],
        pub searched: i32,
        pub shuffled: i32,
        pub effects: *mut c_void,
        pub missing_items: i32,
        pub reserved: i32,
    }

    extern "C" {
        pub fn pygrade_version() -> *const c_char;
        pub fn pygrade_stable_id(name: *const c_char, size: usize) -> i64;
        pub fn pygrade_ranker_load(d: *const c_char, o: *const Options, r: *mut *mut c_void) -> i32;
        pub fn pygrade_ranker_free(ranker: *mut c_void);
        pub fn pygrade_ranker_num_tasks(ranker: *const c_void) -> usize;
        pub fn pygrade_ranker_rank(ranker: *mut c_void, request: *const Request, page: *mut Page) -> i32;
        pub fn pygrade_ranker_swap(r: *mut c_void, policy: *const c_void, error: *mut c_char, size: usize) -> i32;
        pub fn pygrade_policy_load(source: *const PolicySource, policy: *mut *mut c_void) -> i32;
        pub fn pygrade_policy_free(policy: *mut c_void);
    }
}

/// The status of <pygrade/pygrade.h> and the text of a call that failed.
#[derive(Debug)]
pub struct Error {
    pub status: i32,
    pub text: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)
    }
}

impl std::error::Error for Error {}

const INVALID_ARGUMENT: i32 = 1;

fn invalid(text: &str) -> Error {
    Error { status: INVALID_ARGUMENT, text: text.to_string() }
}

/// Where a call writes its error.
struct ErrorBuffer([c_char; 256]);

impl ErrorBuffer {
    fn new() -> Self {
        Self([0; 256])
    }
    fn check(&self, status: i32) -> Result<(), Error> {
        match status {
            0 => Ok(()),
            _ => Err(Error { status, text: text_of(&self.0) }),
        }
    }
}

fn text_of(text: &[c_char]) -> String {
    let bytes: Vec<u8> = text.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Version of the library that runs.
pub fn version() -> &'static str {
    unsafe { CStr::from_ptr(ffi::pygrade_version()) }.to_str().unwrap_or("")
}

/// The id that the name of an item stands for in a log; plain decimal digits are the number itself.
pub fn stable_id(name: &str) -> i64 {
    unsafe { ffi::pygrade_stable_id(name.as_ptr().cast(), name.len()) }
}

/// A request of N candidates; what is `None` is not given.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    pub context: Option<&'a [f32]>,   // [F]
    pub predictions: &'a [f32],       // [N, T]
    pub mask: Option<&'a [u8]>,       // [N]
    pub boost_mul: Option<&'a [f32]>, // [N]
    pub boost_add: Option<&'a [f32]>, // [N]
    pub groups: Option<&'a [i32]>,    // [N, A]
    pub caps: Option<&'a [i32]>,      // [A]
    pub scenario: Option<&'a str>,
    pub explore: bool,
    pub draw: Option<u64>,              // of the exploration; None: the ranker's next one
    pub values: Option<&'a [f32]>,      // [T]
    pub item_values: Option<&'a [f32]>, // [N]
    pub item_ids: Option<&'a [i64]>,    // [N], `stable_id` of items with names
    pub items: Option<&'a [f32]>,       // [N, I] by the item columns of the policy, NaN: unknown
    pub cap_slots: Option<&'a [i32]>,   // [A]
    pub decay: Option<&'a [f32]>,       // [A]
    pub pins: Option<&'a [i32]>,        // [k]
    pub demoted: Option<&'a [u8]>,      // [N]
}

/// The best candidates, with what ranked them.
#[derive(Debug, Clone)]
pub struct Page {
    pub values: Vec<f32>,        // [k]
    pub indices: Vec<i32>,       // [k]
    pub weights: Vec<f32>,       // [T]
    pub concentration: Vec<f32>, // [T]
    pub filled: usize,
    pub fallback: bool,
    pub explored: bool,
    pub draw: u64,
    pub mixture_weight: f32,
    pub missing_items: usize, // item columns that the policy reads and the request lacks: their means stood in
    pub policy_version: String,
}

/// Serves a policy. Any number of threads may share one, also while one of them reloads it.
pub struct Ranker {
    handle: *mut c_void,
    tasks: usize,
}

// The library locks nothing and shares nothing unguarded: pygrade.h allows all calls at once, except free.
unsafe impl Send for Ranker {}
unsafe impl Sync for Ranker {}

impl Drop for Ranker {
    fn drop(&mut self) {
        unsafe { ffi::pygrade_ranker_free(self.handle) }
    }
}

fn c_path(directory: &str) -> Result<CString, Error> {
    CString::new(directory).map_err(|_| invalid("directory has a 0"))
}

impl Ranker {
    /// A ranker of a policy directory.
    pub fn load(directory: &str) -> Result<Self, Error> {
        let (path, mut error) = (c_path(directory)?, ErrorBuffer::new());
        let text = error.0.as_mut_ptr();
        let options = ffi::Options { size: size_of::<ffi::Options>(), flags: 0, seed: 0, error: text, error_size: 256 };
        let mut handle = null_mut();
        let status = unsafe { ffi::pygrade_ranker_load(path.as_ptr(), &options, &mut handle) };
        error.check(status)?;
        Ok(Self { handle, tasks: unsafe { ffi::pygrade_ranker_num_tasks(handle) } })
    }

    /// Number of columns of the predictions.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Replaces the policy while other threads rank.
    pub fn reload(&self, directory: &str) -> Result<(), Error> {
        let (path, mut error) = (c_path(directory)?, ErrorBuffer::new());
        let text = error.0.as_mut_ptr();
        let mut source: ffi::PolicySource = unsafe { zeroed() };
        source.size = size_of::<ffi::PolicySource>();
        (source.directory, source.error, source.error_size) = (path.as_ptr(), text, 256);
        let mut policy = null_mut();
        error.check(unsafe { ffi::pygrade_policy_load(&source, &mut policy) })?;
        let status = unsafe { ffi::pygrade_ranker_swap(self.handle, policy, text, 256) };
        unsafe { ffi::pygrade_policy_free(policy) };
        error.check(status)
    }

    /// The best `k` candidates.
    pub fn rank(&self, request: &Request, k: usize) -> Result<Page, Error> {
        let n = request.predictions.len() / self.tasks;
        let columns = request.caps.map_or(0, <[i32]>::len);
        let fits = |size: Option<usize>, wanted: usize| size.is_none_or(|size| size == wanted);
        let sized = request.predictions.len() == n * self.tasks
            && fits(request.mask.map(<[u8]>::len), n)
            && fits(request.boost_mul.map(<[f32]>::len), n)
            && fits(request.boost_add.map(<[f32]>::len), n)
            && fits(request.item_values.map(<[f32]>::len), n)
            && fits(request.item_ids.map(<[i64]>::len), n)
            && fits(request.values.map(<[f32]>::len), self.tasks)
            && request.items.is_none_or(|items| n > 0 && items.len() % n == 0)
            && fits(request.cap_slots.map(<[i32]>::len), columns)
            && fits(request.decay.map(<[f32]>::len), columns)
            && fits(request.pins.map(<[i32]>::len), k)
            && fits(request.demoted.map(<[u8]>::len), n)
            && fits(request.groups.map(<[i32]>::len), n * columns);
        if !sized {
            return Err(invalid("a slice of the request does not fit its candidates and tasks"));
        }
        let floats = |slice: Option<&[f32]>| slice.map_or(null(), <[f32]>::as_ptr);
        let mut error = ErrorBuffer::new();
        let asked = ffi::Request {
            size: size_of::<ffi::Request>(),
            context: floats(request.context),
            features: request.context.map_or(0, <[f32]>::len),
            predictions: request.predictions.as_ptr(),
            candidates: n,
            tasks: self.tasks,
            mask: request.mask.map_or(null(), <[u8]>::as_ptr),
            boost_mul: floats(request.boost_mul),
            boost_add: floats(request.boost_add),
            groups: request.groups.map_or(null(), <[i32]>::as_ptr),
            caps: request.caps.map_or(null(), <[i32]>::as_ptr),
            group_columns: columns,
            scenario: request.scenario.map_or(null(), |name| name.as_ptr().cast()),
            scenario_size: request.scenario.map_or(0, str::len),
            draw: request.draw.unwrap_or(0),
            flags: u32::from(request.explore) | if request.draw.is_some() { 2 } else { 0 },
            reserved: 0,
            values: floats(request.values),
            item_values: floats(request.item_values),
            error: error.0.as_mut_ptr(),
            error_size: error.0.len(),
            items: floats(request.items),
            item_columns: request.items.map_or(0, |items| items.len() / n),
            categories: null(), // page terms are not known here: pages are in the order of the scores
            embeddings: null(),
            embedding_size: 0,
            item_ids: request.item_ids.map_or(null(), <[i64]>::as_ptr),
            cap_slots: request.cap_slots.map_or(null(), <[i32]>::as_ptr),
            decay: floats(request.decay),
            production_scores: null(),
            pins: request.pins.map_or(null(), <[i32]>::as_ptr),
            demoted: request.demoted.map_or(null(), <[u8]>::as_ptr),
        };
        let (mut values, mut indices) = (vec![0.0; k], vec![0; k]);
        let (mut weights, mut concentration) = (vec![0.0; self.tasks], vec![0.0; self.tasks]);
        let mut page: ffi::Page = unsafe { zeroed() };
        (page.size, page.k) = (size_of::<ffi::Page>(), k);
        (page.values, page.indices) = (values.as_mut_ptr(), indices.as_mut_ptr());
        (page.weights, page.concentration) = (weights.as_mut_ptr(), concentration.as_mut_ptr());
        let status = unsafe { ffi::pygrade_ranker_rank(self.handle, &asked, &mut page) };
        error.check(status)?;
        Ok(Page {
            values,
            indices,
            weights,
            concentration,
            filled: page.filled as usize,
            fallback: page.fallback != 0,
            explored: page.explored != 0,
            draw: page.seed,
            mixture_weight: page.mixture_weight,
            missing_items: page.missing_items as usize,
            policy_version: text_of(&page.policy_version),
        })
    }
}
