//! Damaged and malicious ONNX files, and graphs that are no plain Vision Transformer: one clear error that says where.

use crate::common::Vit;
use foretune::model::{LoadOptions, Model};
use foretune::onnx::{Element, ExportOptions, export};
use foretune::{Classifier, Error};
use proptest::prelude::*;
use prost::Message;
use proto::{AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto};
use std::path::PathBuf;
use std::sync::LazyLock;

#[path = "../../src/onnx/proto.rs"]
#[allow(dead_code, reason = "the graphs here use a part of the format")]
mod proto;

/// Two blocks of width 8, as our own export writes them.
static TINY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    Vit::TINY.write(folder.path());
    let model = Model::open(folder.path(), &LoadOptions::default()).unwrap();
    let path = folder.path().join("tiny.onnx");
    let options = ExportOptions { element: Element::F32, preprocessing: false };
    export(&Classifier::new(model, None).unwrap(), options, &path).unwrap();
    std::fs::read(path).unwrap()
});

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn tensor<'m>(model: &'m mut ModelProto, name: &str) -> &'m mut TensorProto {
    graph(model).initializer.iter_mut().find(|tensor| tensor.name == name).unwrap()
}

fn node<'m>(model: &'m mut ModelProto, operator: &str) -> &'m mut NodeProto {
    graph(model).node.iter_mut().find(|node| node.op_type == operator).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(bytes: &[u8]) -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        std::fs::write(folder.path(), bytes).unwrap();
        folder
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.onnx")
    }

    fn open(&self) -> Result<Model, Error> {
        Model::open(&self.path(), &LoadOptions::default())
    }
}

fn altered(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let mut model = ModelProto::decode(&TINY[..]).unwrap();
    change(&mut model);
    model.encode_to_vec()
}

/// The message of the error that the altered file gives.
fn refused(change: impl FnOnce(&mut ModelProto)) -> String {
    let error = Folder::new(&altered(change)).open().expect_err("a damaged file was accepted");
    assert!(matches!(error, Error::Checkpoint { .. } | Error::Tensor { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("model.onnx"), "{message}");
    message
}

#[test]
fn the_tiny_export_is_sound() {
    let model = Folder::new(&altered(|_| ())).open().unwrap();
    assert_eq!((model.spec.heads, model.spec.depth, model.spec.image), (2, 2, [8, 8]));
}

#[test]
fn what_is_no_model() {
    for bytes in
        [&b""[..], b"\x00", b"not protobuf at all", &[0xff; 64], b"{\"a\": 1}", &[0x3a, 0xff, 0xff, 0xff, 0x7f]]
    {
        let error = Folder::new(bytes).open().unwrap_err();
        assert!(matches!(error, Error::Checkpoint { .. }), "{error:?}");
    }
    assert!(refused(|model| model.graph = None).contains("no graph"));
    assert!(refused(|model| graph(model).output.clear()).contains("no output"));
    assert!(refused(|model| graph(model).input.clear()).contains("0 inputs"));
    assert!(refused(|model| graph(model).node.clear()).contains("logits"));
}

/// Messages within messages, far deeper than a parser may go.
#[test]
fn deep_nesting() {
    let mut bytes = Vec::new();
    for _ in 0..20_000 {
        // Attribute 5 of a node 1 of a graph 7 …
        let mut outer = vec![0x3a];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.append(&mut bytes);
        bytes = outer;
        if bytes.len() > 60_000 {
            break;
        }
    }
    assert!(matches!(Folder::new(&bytes).open(), Err(Error::Checkpoint { .. })));
    // Sums of sums of constant tokens.
    let message = refused(|model| {
        let add = node(model, "Expand").output[0].clone();
        let chain = (0..5000).map(|i| NodeProto {
            op_type: "Concat".into(),
            input: vec![if i == 0 { add.clone() } else { format!("deep{}", i - 1) }; 2],
            output: vec![format!("deep{i}")],
            attribute: vec![AttributeProto { name: "axis".into(), i: 0, ..Default::default() }],
            ..Default::default()
        });
        let nodes = &mut graph(model).node;
        let at = nodes.iter().position(|node| node.op_type == "Expand").unwrap() + 1;
        nodes[at].input[0] = "deep4999".into();
        nodes.splice(at..at, chain.collect::<Vec<_>>());
    });
    assert!(message.contains("Concat"), "{message}");
}

#[test]
fn shapes_that_lie() {
    let dims = |dims: &[i64]| {
        let dims = dims.to_vec();
        refused(move |model| tensor(model, "blocks.0.fc1.weight").dims = dims)
    };
    for shape in [&[8, -16][..], &[i64::MIN, 16], &[1 << 40, 1 << 40], &[i64::MAX, i64::MAX, 2], &[8, 17], &[1; 70]] {
        let message = dims(shape);
        assert!(message.contains("blocks.0.fc1.weight"), "{message}");
    }
    // Another split of the same numbers is found where the tensor is used.
    dims(&[16, 8]);
    dims(&[128]);
    dims(&[0, 16]);
    assert!(refused(|model| tensor(model, "blocks.1.norm1.weight").raw_data.truncate(3)).contains("norm1"));
    let typed = altered(|model| {
        let tensor = tensor(model, "blocks.0.norm1.weight");
        tensor.float_data = tensor.raw_data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        tensor.raw_data.clear();
    });
    Folder::new(&typed).open().unwrap();
    assert!(refused(|model| tensor(model, "blocks.0.norm1.weight").raw_data.clear()).contains("norm1"));
    // Weights repeated by an operator are no weights, however large it says they are.
    refused(|model| {
        let weight = node(model, "MatMul").input[1].clone();
        let (shape, big) = ("enormous".to_owned(), vec![1i64 << 20, 1 << 20]);
        graph(model).initializer.push(TensorProto {
            name: shape.clone(),
            dims: vec![2],
            data_type: 7,
            int64_data: big,
            ..Default::default()
        });
        let one = tensor(model, "blocks.0.norm1.weight").name.clone();
        let expand = NodeProto {
            op_type: "Expand".into(),
            input: vec![one, shape],
            output: vec!["big".into()],
            ..Default::default()
        };
        graph(model).node.insert(0, expand);
        graph(model)
            .node
            .iter_mut()
            .filter(|node| node.input.contains(&weight))
            .for_each(|node| node.input[1] = "big".into());
    });
}

#[test]
fn nodes_that_do_not_fit_together() {
    assert!(refused(|model| node(model, "Softmax").input[0] = "nothing".into()).contains("`nothing`"));
    let message = refused(|model| {
        let output = node(model, "Softmax").output[0].clone();
        node(model, "Softmax").input[0] = output;
    });
    assert!(message.contains("Softmax") && message.contains("circle"), "{message}");
    let message = refused(|model| {
        let twice = node(model, "Softmax").clone();
        graph(model).node.push(twice);
    });
    assert!(message.contains("twice"), "{message}");
    let message = refused(|model| {
        let name = tensor(model, "blocks.0.fc2.bias").name.clone();
        graph(model).initializer.retain(|tensor| tensor.name != name);
    });
    assert!(message.contains("blocks.0.fc2.bias"), "{message}");
    refused(|model| node(model, "Softmax").input.clear());
    refused(|model| node(model, "LayerNormalization").input.truncate(1));
    refused(|model| node(model, "Conv").attribute.clear());
    refused(|model| node(model, "Split").output.truncate(1));
}

/// Every operation that computes something else is named.
#[test]
fn operations_of_another_network() {
    for (from, to) in [
        ("Softmax", "Tanh"),
        ("Erf", "Sigmoid"),
        ("LayerNormalization", "RMSNormalization"),
        ("Conv", "ConvInteger"),
        ("Softmax", "Loop"),
    ] {
        let message = refused(|model| node(model, from).op_type = to.into());
        assert!(message.contains(to) || message.contains("activation"), "{from} to {to}: {message}");
    }
    let message = refused(|model| node(model, "Softmax").domain = "com.microsoft".into());
    assert!(message.contains("com.microsoft"), "{message}");
    // One more operation on the way.
    for operator in ["Relu", "Softmax", "Neg", "Exp"] {
        let message = refused(|model| {
            let gemm = node(model, "Gemm");
            let input = std::mem::replace(&mut gemm.input[0], "more".into());
            let more = NodeProto {
                name: "extra".into(),
                op_type: operator.into(),
                input: vec![input],
                output: vec!["more".into()],
                ..Default::default()
            };
            let at = graph(model).node.iter().position(|node| node.op_type == "Gemm").unwrap();
            graph(model).node.insert(at, more);
        });
        assert!(message.contains("`extra`") && message.contains(operator), "{message}");
    }
    // A residual sum that takes something else, and a scale that is another.
    let message = refused(|model| {
        let adds: Vec<usize> = graph(model)
            .node
            .iter()
            .enumerate()
            .filter(|(_, n)| n.op_type == "Add" && n.name.contains("mlp"))
            .map(|(i, _)| i)
            .collect();
        let residual =
            *adds.iter().find(|&&i| graph(model).node[i].input.iter().all(|name| name.contains("_output"))).unwrap();
        let other = node(model, "LayerNormalization").output[0].clone();
        graph(model).node[residual].input[0] = other;
    });
    assert!(message.contains("stands where"), "{message}");
    let message = refused(|model| {
        let half =
            graph(model).initializer.iter_mut().find(|t| t.dims.is_empty() && t.raw_data[..] == 0.5f32.to_le_bytes());
        // 1/√4 of attention and ½ of gelu are one constant.
        half.unwrap().raw_data = 0.25f32.to_le_bytes().to_vec().into();
    });
    assert!(message.contains("0.25") || message.contains("activation"), "{message}");
    refused(|model| node(model, "LayerNormalization").attribute.iter_mut().for_each(|a| a.f = 0.5));
    refused(|model| node(model, "Transpose").attribute[0].ints = vec![0, 1, 2]);
}

#[test]
fn tensors_in_other_files() {
    let external = |location: &str, offset: &str, length: &str| {
        altered(|model| {
            let tensor = tensor(model, "blocks.0.fc1.weight");
            tensor.raw_data.clear();
            tensor.data_location = 1;
            let entry = |key: &str, value: &str| StringStringEntryProto { key: key.into(), value: value.into() };
            tensor.external_data = vec![entry("location", location), entry("offset", offset), entry("length", length)];
        })
    };
    let bytes = 8 * 16 * 4;
    let data = vec![0u8; bytes + 16];
    let open = |location: &str, offset: &str, length: &str| {
        let folder = Folder::new(&external(location, offset, length));
        std::fs::write(folder.0.path().join("model.data"), &data).unwrap();
        folder.open()
    };
    open("model.data", "16", &bytes.to_string()).unwrap();
    let wrong = [
        ("model.data", "17", "512"),
        ("model.data", "18446744073709551615", "512"),
        ("model.data", "-1", "512"),
        ("model.data", "0", "511"),
        ("model.data", "0", "x"),
        ("absent.data", "0", "512"),
        ("../model.data", "0", "512"),
        ("/etc/passwd", "0", "512"),
        ("a/../model.data", "0", "512"),
        ("a\\model.data", "0", "512"),
        ("..", "0", "512"),
        (".", "0", "512"),
        ("", "0", "512"),
        ("model.data\0", "0", "512"),
    ];
    for (location, offset, length) in wrong {
        let error = open(location, offset, length).expect_err(location);
        assert!(matches!(error, Error::Tensor { .. }), "{location} {offset} {length}: {error:?}");
        assert!(error.to_string().contains("blocks.0.fc1.weight"), "{error}");
    }
}

#[test]
fn what_lies_beside_must_fit() {
    let folder = Folder::new(&altered(|model| model.metadata_props.clear()));
    std::fs::write(folder.0.path().join("labels.txt"), "a\nb\nc\n").unwrap();
    assert_eq!(folder.open().unwrap().class_names.unwrap(), ["a", "b", "c"]);
    std::fs::write(folder.0.path().join("config.json"), "{\"id2label\": {\"0\": \"x\"}}").unwrap();
    assert!(matches!(folder.open(), Err(Error::Config { .. })));
    std::fs::write(folder.0.path().join("config.json"), "{\"id2label\": {\"0\": \"x\", \"1\": \"y\", \"2\": \"z\"}}")
        .unwrap();
    assert_eq!(folder.open().unwrap().class_names.unwrap(), ["x", "y", "z"]);
    let heads = LoadOptions { heads: Some(4), image: None };
    assert!(matches!(Model::open(&folder.path(), &heads), Err(Error::Options(_))));
    for value in [
        "{",
        "null",
        "{\"crop\":[0,0],\"resize\":{\"short_side\":1},\"interpolation\":\"bicubic\",\"mean\":[0,0,0],\"std\":[1,1,1]}",
    ] {
        refused(|model| {
            model.metadata_props.iter_mut().filter(|p| p.key == "preprocess").for_each(|p| p.value = value.into())
        });
    }
    refused(|model| {
        model.metadata_props.iter_mut().filter(|p| p.key == "class_names").for_each(|p| p.value = "[\"a\"]".into())
    });
}

fn survives(bytes: &[u8]) {
    if let Ok(model) = Folder::new(bytes).open() {
        let _ = model.head();
        let _ = model.position_table();
        let _ = model.fingerprint();
    }
}

#[test]
fn truncation_is_noticed() {
    for length in (0..TINY.len()).step_by(61) {
        let opened = Folder::new(&TINY[..length]).open();
        assert!(opened.is_err(), "{length} of {} bytes", TINY.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        survives(&bytes);
    }

    #[test]
    fn flipped_bits_never_panic(flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..6)) {
        let mut bytes = TINY.clone();
        for (index, bit) in flips {
            let at = index.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        survives(&bytes);
    }

    /// Nodes and tensors that are whole, but not where they belong.
    #[test]
    fn rewired_graphs_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..7, -3i64..1 << 40), 1..5),
    ) {
        let bytes = altered(|model| {
            for (one, other, what, number) in changes {
                let graph = graph(model);
                let place = other.index(graph.initializer.len());
                let tensor = graph.initializer[place].clone();
                let names: Vec<String> = graph.node.iter().flat_map(|node| node.output.clone()).chain([tensor.name.clone()]).collect();
                let at = one.index(graph.node.len());
                let node = &mut graph.node[at];
                match what {
                    0 => node.input.iter_mut().take(1).for_each(|input| input.clone_from(other.get(&names))),
                    1 => node.input.iter_mut().skip(1).for_each(|input| input.clone_from(other.get(&names))),
                    2 => node.attribute.iter_mut().for_each(|a| a.i = number),
                    3 => node.attribute.iter_mut().flat_map(|a| &mut a.ints).for_each(|i| *i = number),
                    4 => drop(graph.node.remove(at)),
                    5 => graph.initializer[place].int64_data = vec![number; 3],
                    _ => {
                        let dims = &mut graph.initializer[place].dims;
                        dims.push(number.rem_euclid(3));
                        dims.rotate_right(1);
                    }
                }
            }
        });
        survives(&bytes);
    }
}
