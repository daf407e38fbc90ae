//! Sized structs: options and answers that may grow in a later version.
//!
//! Decides: what an application of another age may mean. An older one sends less: the rest is zero. A
//! newer one sends more: accepted only if what we do not know is zero, so it fails loudly otherwise.
//! Invariant: each such struct is `#[repr(C)]`, made of numbers and pointers, and starts with `u32 struct_size`.

use std::mem::size_of;

use crate::failure::Failure;

/// A struct that starts with its size and for which all-zero bytes are a value.
///
/// # Safety
/// The type is `repr(C)`, starts with `u32 struct_size`, and every bit pattern of zeroes is valid.
pub unsafe trait Sized32: Copy {
    /// What it is called in messages.
    const NAME: &'static str;
}

/// Reads options; `None` for NULL.
///
/// # Safety
/// `ptr` is NULL or points to `struct_size` readable bytes (rule 6).
pub unsafe fn read<T: Sized32>(ptr: *const T) -> Result<Option<T>, Failure> {
    if ptr.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; the caller promises at least the size field.
    let size = unsafe { declared_size::<T>(ptr) }?;
    let known = size.min(size_of::<T>());
    // SAFETY: all zeroes is a value of a `Sized32` type.
    let mut value: T = unsafe { std::mem::zeroed() };
    // SAFETY: `known` is within both the caller's struct and ours; they do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(ptr.cast::<u8>(), (&raw mut value).cast::<u8>(), known) };
    // SAFETY: the caller promises `size` readable bytes, and `known <= size`.
    let unknown = unsafe { std::slice::from_raw_parts(ptr.cast::<u8>().add(known), size - known) };
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Failure::unsupported(format!("`{}` sets a field this version does not know", T::NAME)));
    }
    Ok(Some(value))
}

/// Writes an answer into the caller's struct, as much of it as the caller knows. `struct_size` stays.
///
/// # Safety
/// `ptr` is NULL or points to `struct_size` writable bytes (rule 6).
pub unsafe fn write<T: Sized32>(ptr: *mut T, value: &T) -> Result<(), Failure> {
    if ptr.is_null() {
        return Err(Failure::null(T::NAME));
    }
    // SAFETY: not NULL; the caller promises at least the size field.
    let size = unsafe { declared_size::<T>(ptr) }?.min(size_of::<T>());
    let skip = size_of::<u32>();
    // SAFETY: `skip <= size`, which is within both structs; they do not overlap.
    unsafe {
        let from = (&raw const *value).cast::<u8>().add(skip);
        std::ptr::copy_nonoverlapping(from, ptr.cast::<u8>().add(skip), size - skip);
    }
    Ok(())
}

/// # Safety
/// `ptr` points to at least four readable bytes.
unsafe fn declared_size<T: Sized32>(ptr: *const T) -> Result<usize, Failure> {
    // SAFETY: as promised; the struct starts with its size.
    let size = unsafe { ptr.cast::<u32>().read_unaligned() } as usize;
    if !(size_of::<u32>()..=LARGEST).contains(&size) {
        return Err(Failure::invalid(format!("`{}` has no valid struct_size; use MESH_INIT", T::NAME)));
    }
    Ok(size)
}

/// No struct will ever be that large; a larger size is an uninitialised field.
const LARGEST: usize = 64 * 1024;
