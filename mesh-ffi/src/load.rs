//! What the program says of its own load.
//!
//! Decides: nothing; the engine reports it to callers that ask.

use crate::code::mesh_code;
use crate::error::mesh_error;
use crate::handles;
use crate::mesh::mesh;
use crate::text::mesh_str;

/// Says one thing about the load of this process, until it is said anew: `utilization` (1.0: all it can; balancers
/// weigh by this), `cpu`, `memory`, `queue_depth`, or a name of your own. NaN takes it back. Responses tell it to
/// callers that ask (`listeners[].load_reports`), with the rates and requests in flight that the mesh counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mesh_load_report_set(
    mesh: *const mesh,
    name: mesh_str,
    value: f64,
    err: *mut *mut mesh_error,
) -> mesh_code {
    guard!(mesh_load_report_set, err, {
        // SAFETY: rules 1 and 4: a live handle, checked for NULL, and readable text.
        let (mesh, name) = unsafe { (handles::lend(mesh)?, name.read("name")?) };
        mesh.engine.mesh()?.load().set(name, (!value.is_nan()).then_some(value))?;
        Ok(())
    })
}
