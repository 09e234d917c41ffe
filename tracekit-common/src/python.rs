//! What the kernel side knows of a process's interpreter, and the stacks that it reads with it.

/// Where one process's interpreter keeps what the kernel side reads: offsets in bytes, from the layout of
/// its version. Names are CPython's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Python {
    /// Address of `_PyRuntime`.
    pub runtime: u64,
    /// The main interpreter (`PyInterpreterState *`).
    pub main_interpreter: u64,
    /// `_PyRuntimeState.interpreters.head`
    pub interpreters_head: u32,
    /// `PyInterpreterState.next`
    pub interpreter_next: u32,
    /// `PyInterpreterState.threads.head`
    pub threads_head: u32,
    /// `PyThreadState.next`
    pub thread_next: u32,
    /// `PyThreadState.thread_id`
    pub thread_id: u32,
    /// Where the thread's id (as in its own PID namespace, 32 bits) is: in `PyThreadState`
    /// (`native_thread_id`, 3.11+), or with [`ID_IN_DESCRIPTOR`] in the C library's descriptor of the
    /// thread, to which `thread_id` points. [`ABSENT`](crate::ABSENT): not known, no thread is found.
    pub native_id: u32,
    /// `PyThreadState`: the newest frame, or the `_PyCFrame` that leads to it.
    pub frame: u32,
    /// `_PyCFrame.current_frame` (3.11, 3.12), else [`ABSENT`](crate::ABSENT).
    pub cframe_frame: u32,
    /// Bytes of a frame that hold all that is read: at most [`FRAME_BYTES`].
    pub frame_size: u32,
    /// `f_code`, `f_executable`
    pub frame_code: u32,
    /// `f_back`, `previous`
    pub frame_back: u32,
    /// `f_lasti`, `prev_instr`, `instr_ptr`
    pub frame_instruction: u32,
    /// `owner` (3.11+), else 0.
    pub frame_owner: u32,
    /// Owners (bytes) from here on are no frames of Python code; before 3.11 above all bytes.
    pub first_shim_owner: u32,
    /// [`ID_IN_DESCRIPTOR`], [`STACKS`], [`DEEPER`]
    pub flags: u32,
    /// The process whose line breakpoints are this one's: itself, and for one that was forked, from which it was.
    pub family: u32,
    /// Bits of a code pointer that are no tag (3.14+ `_PyStackRef`).
    pub code_mask: u64,
}

/// See [`Python::native_id`].
pub const ID_IN_DESCRIPTOR: u32 = 1;
/// Report the stack of what a client connection sends.
pub const STACKS: u32 = 2;

/// Report of each stack also [`DEEPER_FRAMES`] below the first of the application.
pub const DEEPER: u32 = 4;

/// Frames that are visited behind the first one of the application, if that is wanted.
pub const DEEPER_FRAMES: u32 = 24;

/// Bytes of a frame that are read at most.
pub const FRAME_BYTES: usize = 120;

/// Frames of a stack that are reported at most.
pub const MAX_FRAMES: usize = 64;

/// The thread state of a native thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Thread {
    /// `PyThreadState *`; 0 if the thread had none at `looked`.
    pub state: u64,
    /// `PyThreadState.thread_id`: differs once the memory is another thread's.
    pub thread_id: u64,
    /// When it was looked for: nanoseconds of `CLOCK_MONOTONIC`.
    pub looked: u64,
}

/// Key of [`CodeClass`]: a code object of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CodeKey {
    /// `PyCodeObject *`
    pub code: u64,
    /// Thread group (process).
    pub tgid: u32,
    /// Zero.
    pub reserved: u32,
}

/// What is known of a code object: [`APPLICATION`].
pub type CodeClass = u32;

/// Code of the application, not of a library: a walk may stop here.
pub const APPLICATION: CodeClass = 1;

/// One frame of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Frame {
    /// `PyCodeObject *`, tags removed.
    pub code: u64,
    /// `f_lasti` in the lower half, `prev_instr`, `instr_ptr`
    pub instruction: u64,
}

/// Head of the record of a Python stack, which is followed by `count` [`Frame`]s, the newest first. What the
/// thread does next (the record that follows it of the same thread) it does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct StackRecord {
    /// `event::Kind::Stack`
    pub kind: u32,
    /// Thread group (process).
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// Frames that follow.
    pub count: u32,
    /// `PyThreadState *`
    pub state: u64,
    /// When: nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// How the walk ended: [`END_OLDEST`], [`END_LIMIT`], [`END_FAULT`], [`END_APPLICATION`], [`END_EVENT_LOOP`].
    pub end: u32,
    /// Which frame is the first that is known to be the [`APPLICATION`]'s, counted from 1; 0 if none is.
    pub application: u32,
    /// From where the thread waited for events last without running a task: if it runs an event loop, what runs that.
    /// Zeroes if it did not wait.
    pub waiter: Frame,
}

/// At the oldest frame.
pub const END_OLDEST: u32 = 0;
/// After [`MAX_FRAMES`].
pub const END_LIMIT: u32 = 1;
/// At a frame that could not be read.
pub const END_FAULT: u32 = 2;
/// At the first frame of the application, or [`DEEPER_FRAMES`] behind it.
pub const END_APPLICATION: u32 = 3;
/// At the frame that runs the thread's event loop, which the user side has named.
pub const END_EVENT_LOOP: u32 = 4;

const _: () = assert!(size_of::<Python>() == 16 + 16 * 4 + 8);
const _: () = assert!(size_of::<Thread>() == 24);
const _: () = assert!(size_of::<CodeKey>() == 16);
const _: () = assert!(size_of::<StackRecord>() == 56);

// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Python {}
// SAFETY: `repr(C)`, integers only, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for CodeKey {}
// SAFETY: `repr(C)`, integers only, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Frame {}
