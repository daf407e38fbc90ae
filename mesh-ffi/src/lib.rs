//! The C interface of libmesh, one C noun per file.
//!
//! Decides: nothing about traffic. Every entry point does four things: check the pointers, convert,
//! call `mesh-core`, convert back. Never: unwinds into C, keeps a caller's pointer after return,
//! calls into the host from a library thread, or touches its signals, `errno` or environment.
//! Invariant: types and functions are written with their C names, so what is read here is what the
//! generated header `bindings/c/include/mesh.h` says. The numbered rules at the top of that header are
//! the safety contract every `SAFETY` comment here refers to.

#![allow(non_camel_case_types)]

#[macro_use]
mod panic;

// What C sees. The header keeps this order: values, then a client, then a queue, then a server.
mod code;
mod text;

mod error;

mod buf;
mod handles;

mod config;

mod mesh;

mod fork;

mod request;

mod body;

mod response;

mod cq;

mod op;

mod event;

mod listener;

mod inbound;

mod answer;

mod received;

mod check;

mod body_wanted;

mod scope;

mod guard;

mod load;

// What is behind it.
mod engine;
mod failure;
mod headers;
mod queue;
mod reader;
mod server;
mod signal;
mod sized;
mod submit;
mod threads;
mod wait;
