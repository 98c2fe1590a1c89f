//! Graphs as files: one tensor in memory at a time.

use super::graph::{Constant, Graph, OPSET};
use super::proto::{DataLocation, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, TensorProto};
use crate::files::write_atomic;
use crate::{Error, Result};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A protocol buffer holds at most 2 GiB; tensors of larger models are in a file beside it.
const MOST: usize = 1 << 31;
/// External tensors begin at multiples of this: pages, which can be mapped.
const PAGE: usize = 4096;
/// Tensors of fewer bytes are always in the model itself.
const SMALL: usize = 1024;

const GRAPH: u32 = 7;
const INITIALIZER: u32 = 5;
const RAW_DATA: u32 = 9;

/// A tensor on its way into a file.
struct Placed<'g, 'm> {
    constant: &'g Constant<'m>,
    header: TensorProto,
    external: bool,
}

impl Placed<'_, '_> {
    /// Bytes of the message.
    fn len(&self) -> usize {
        let values = match self.external {
            true => 0,
            false => field_len(RAW_DATA, self.constant.len()),
        };
        self.header.encoded_len() + values
    }
}

fn field_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn begin(tag: u32, len: usize, out: &mut dyn Write) -> io::Result<()> {
    let mut head = Vec::with_capacity(16);
    encode_key(tag, WireType::LengthDelimited, &mut head);
    encode_varint(len as u64, &mut head);
    out.write_all(&head)
}

/// Writes `graph` with this metadata to `path`; above 2 GiB its large tensors go to `path` with `.data` after its name, which is
/// returned. Errors: [`Error::Io`]; a tensor of the model cannot be read.
pub(super) fn write(graph: &Graph, metadata: &[(&str, String)], path: &Path) -> Result<Option<PathBuf>> {
    let total: usize = graph.constants.iter().map(Constant::len).sum();
    let name = path.file_name().map(|name| format!("{}.data", name.to_string_lossy()));
    let external = if total + graph.proto().encoded_len() < MOST - (64 << 20) { None } else { name };
    write_as(graph, metadata, path, external.as_deref())?;
    Ok(external.map(|name| path.with_file_name(name)))
}

/// Whether a tensor stands outside the model wherever it may.
pub(super) fn is_external(constant: &Constant) -> bool {
    constant.len() >= SMALL
}

/// The model without its larger tensors, which ONNX Runtime is given beside it. They are said to be in the working folder itself:
/// newer versions insist on a path that exists, and whatever would read this one fails. Errors: a tensor cannot be read.
#[cfg(feature = "ort")]
pub(super) fn without_tensors(graph: &Graph) -> Result<Vec<u8>> {
    let placed = place(graph, Some("."));
    let mut bytes = Vec::new();
    match encode(graph.proto(), &placed, &[], &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(Failure::There(error)) => Err(error),
        Err(Failure::Here(error)) => Err(Error::io("write", "memory", error)),
    }
}

fn place<'g, 'm>(graph: &'g Graph<'m>, external: Option<&str>) -> Vec<Placed<'g, 'm>> {
    let mut offset = 0;
    let place = |constant| {
        let mut placed = Placed { constant, header: constant.header(), external: false };
        if let Some(name) = external.filter(|_| is_external(constant)) {
            let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
            placed.external = true;
            placed.header.data_location = DataLocation::External as i32;
            placed.header.external_data = vec![
                entry("location", name.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", constant.len().to_string()),
            ];
            offset += constant.len().next_multiple_of(PAGE);
        }
        placed
    };
    graph.constants.iter().map(place).collect()
}

fn write_as(graph: &Graph, metadata: &[(&str, String)], path: &Path, external: Option<&str>) -> Result<()> {
    let placed = place(graph, external);
    if let Some(name) = external {
        // First: a model is never there without its tensors.
        fill(&path.with_file_name(name), |out| {
            placed.iter().filter(|placed| placed.external).try_for_each(|placed| {
                let bytes = placed.constant.bytes()?;
                let padding = vec![0; bytes.len().next_multiple_of(PAGE) - bytes.len()];
                put(out, &bytes)?;
                put(out, &padding)
            })
        })?;
    }
    fill(path, |out| encode(graph.proto(), &placed, metadata, out))
}

/// A step that may fail in the model's file or in the one that is written.
type Step = std::result::Result<(), Failure>;

enum Failure {
    Here(io::Error),
    There(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::There(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Here(error)
    }
}

fn put(out: &mut dyn Write, bytes: &[u8]) -> Step {
    Ok(out.write_all(bytes)?)
}

fn fill(path: &Path, step: impl FnOnce(&mut dyn Write) -> Step) -> Result<()> {
    let mut there = None;
    let written = write_atomic(path, |out| match step(out) {
        Ok(()) => Ok(()),
        Err(Failure::Here(error)) => Err(error),
        Err(Failure::There(error)) => {
            there = Some(error);
            Err(io::ErrorKind::Other.into())
        }
    });
    match there {
        Some(error) => Err(error),
        None => written,
    }
}

fn encode(graph: &GraphProto, placed: &[Placed], metadata: &[(&str, String)], out: &mut dyn Write) -> Step {
    let metadata =
        metadata.iter().map(|(key, value)| StringStringEntryProto { key: (*key).into(), value: value.clone() });
    let model = ModelProto {
        // The IR of the operators' version.
        ir_version: 8,
        producer_name: "foretune".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata.collect(),
        ..ModelProto::default()
    };
    put(out, &model.encode_to_vec())?;
    let tensors: usize = placed.iter().map(|placed| field_len(INITIALIZER, placed.len())).sum();
    begin(GRAPH, graph.encoded_len() + tensors, out)?;
    put(out, &graph.encode_to_vec())?;
    for placed in placed {
        begin(INITIALIZER, placed.len(), out)?;
        put(out, &placed.header.encode_to_vec())?;
        if !placed.external {
            let bytes = placed.constant.bytes()?;
            begin(RAW_DATA, bytes.len(), out)?;
            put(out, &bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::{Dim, Element};
    use crate::onnx::proto::DataType;

    /// What models above 2 GiB get: a second file, in which every large tensor has the bytes that the one file has.
    #[test]
    fn external_tensors_are_the_same_tensors() {
        let large: Vec<f32> = (0..3000).map(|i| i as f32).collect();
        let mut g = Graph::new("test", Element::F32);
        let x = g.input("x", DataType::Float, &[Dim::Named("batch"), Dim::Of(3000)]);
        let names = ["first", "second"];
        let sum = names.iter().fold(x, |x, name| {
            let term = g.tensor((*name).into(), &[3000], || Ok(large.clone()));
            g.add(&x, &term)
        });
        let sum = g.plus(&sum, 1.0);
        g.output("y", &sum, DataType::Float, &[Dim::Named("batch"), Dim::Of(3000)]);

        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one.onnx", "two.onnx"].map(|name| folder.path().join(name));
        write_as(&g, &[("key", "value".into())], &one, None).unwrap();
        write_as(&g, &[("key", "value".into())], &two, Some("two.onnx.data")).unwrap();
        let read = |path| ModelProto::decode(&*std::fs::read(path).unwrap()).unwrap();
        let (one, two) = (read(&one), read(&two));
        assert_eq!(one.metadata_props, two.metadata_props);
        let (one, two) = (one.graph.unwrap(), two.graph.unwrap());
        assert_eq!((one.node.len(), &one.node, &one.output), (4, &two.node, &two.output));
        let data = std::fs::read(folder.path().join("two.onnx.data")).unwrap();
        let mut external = 0;
        for (whole, part) in one.initializer.iter().zip(&two.initializer) {
            assert_eq!((&whole.name, &whole.dims, whole.data_type), (&part.name, &part.dims, part.data_type));
            let field = |key| part.external_data.iter().find(|entry| entry.key == key).map(|entry| entry.value.clone());
            let bytes = match (field("offset"), field("length")) {
                (Some(offset), Some(length)) => {
                    external += 1;
                    let offset: usize = offset.parse().unwrap();
                    assert_eq!((offset % PAGE, field("location").as_deref()), (0, Some("two.onnx.data")));
                    &data[offset..][..length.parse().unwrap()]
                }
                _ => &part.raw_data[..],
            };
            assert_eq!(whole.raw_data, bytes, "{}", whole.name);
        }
        assert_eq!(external, 2);
    }
}
