//! What a system call does to a socket. The user side fills a table by system call number of its
//! architecture, so that one kernel object serves them all.

/// Numbers below this are in the table.
pub const TABLE: u32 = 512;

/// Not of interest.
pub const NONE: u32 = 0;
/// `read(fd, buf, len)`
pub const READ: u32 = 1;
/// `readv(fd, iov, iovcnt)`
pub const READV: u32 = 2;
/// `recvfrom(fd, buf, len, flags, …)`
pub const RECVFROM: u32 = 3;
/// `recvmsg(fd, msg, flags)`
pub const RECVMSG: u32 = 4;
/// `write(fd, buf, len)`
pub const WRITE: u32 = 5;
/// `writev(fd, iov, iovcnt)`
pub const WRITEV: u32 = 6;
/// `sendto(fd, buf, len, flags, …)`
pub const SENDTO: u32 = 7;
/// `sendmsg(fd, msg, flags)`
pub const SENDMSG: u32 = 8;
/// `sendmmsg(fd, msgvec, vlen, flags)`
pub const SENDMMSG: u32 = 9;
/// `sendfile(out_fd, in_fd, offset, count)`
pub const SENDFILE: u32 = 10;
/// `splice(fd_in, off_in, fd_out, off_out, len, flags)`
pub const SPLICE: u32 = 11;
/// `close(fd)`
pub const CLOSE: u32 = 12;
/// `shutdown(fd, how)`
pub const SHUTDOWN: u32 = 13;
/// `dup(fd)`
pub const DUP: u32 = 14;
/// `dup2(old, new)`, `dup3(old, new, flags)`
pub const DUP2: u32 = 15;
/// `fcntl(fd, cmd, arg)`
pub const FCNTL: u32 = 16;
/// `accept(fd, addr, len)`, `accept4(fd, addr, len, flags)`
pub const ACCEPT: u32 = 17;
/// `epoll_wait(epfd, events, count, timeout)`, `epoll_pwait`, `epoll_pwait2`
pub const WAIT: u32 = 18;
/// `epoll_ctl(epfd, op, fd, event)`
pub const WATCH: u32 = 19;
