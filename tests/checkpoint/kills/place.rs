//! What is saved over and over, and how it must look.

use candle_core::Var;
use candle_gpt_input::candle_nn::Optimizer;
use candle_gpt_input::checkpoint::{SaveFormat, save_pretrained};
use candle_gpt_input::optim::AdamW;

use super::*;

/// One state of a case: all elements are `value`, and `embd_pdrop` is a tenth of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum State {
    Old,
    New,
}

impl State {
    fn value(self) -> f64 {
        if self == Self::Old { 1. } else { 2. }
    }

    pub fn table(self, n_rows: usize) -> Tensor {
        Tensor::full(self.value() as f32, (n_rows, 64), &Device::Cpu).unwrap()
    }

    fn n_rows(self) -> usize {
        if self == Self::Old { 1500 } else { 2000 }
    }

    fn tensors(self) -> Vec<(String, Tensor)> {
        let tables = [("wte.weight", self.n_rows()), ("wpe.weight", self.n_rows() / 10)];
        let mut tensors = tables.map(|(name, n_rows)| (name.to_string(), self.table(n_rows))).to_vec();
        tensors.extend((0..4).map(|i| (format!("h.{i}.weight"), self.table(300))));
        tensors
    }

    pub fn config(self) -> GptInputConfig {
        let config = GptInputConfig::new(self.n_rows(), self.n_rows() / 10, 64).with_n_head(1);
        config.with_embd_pdrop(self.value() / 10.)
    }
}

/// What is saved over and over.
#[derive(Clone, Copy, Debug)]
pub enum Case {
    Tensors,
    Layer,
    Gguf,
    Folder,
    /// A folder of one file, then one of shards.
    Convert,
    /// Shards of the same names, which differ in dtype.
    Shards,
    Optimizer,
    /// A checkpoint, and the optimizer's state in the same folder.
    Training,
}

pub const CASES: [Case; 8] = [
    Case::Tensors,
    Case::Layer,
    Case::Gguf,
    Case::Folder,
    Case::Convert,
    Case::Shards,
    Case::Optimizer,
    Case::Training,
];

/// The state of an optimizer in a folder.
const OPTIMIZER: &str = "optimizer.safetensors";

/// A case in a folder of its own, beside files that are not ours.
pub struct Place {
    pub case: Case,
    pub folder: PathBuf,
}

const FOREIGN: [&str; 3] = ["notes.txt", "other.safetensors", "tokenizer.json"];

impl Place {
    pub fn new(case: Case, root: &Path) -> Self {
        let folder = root.join("saved");
        fs::create_dir_all(&folder).unwrap();
        for name in FOREIGN {
            fs::write(folder.join(name), name).unwrap();
        }
        for state in [State::Old, State::New] {
            let source = root.join(format!("source-{state:?}"));
            let tensors = state.tensors();
            save_pretrained(source, tensors.iter().map(|(name, tensor)| (name, tensor)), &state.config()).unwrap();
        }
        Self { case, folder }
    }

    /// Returns the path that is saved to and opened.
    pub fn path(&self) -> PathBuf {
        match self.case {
            Case::Tensors | Case::Optimizer | Case::Layer => self.folder.join("x.safetensors"),
            Case::Gguf => self.folder.join("x.gguf"),
            _ => self.folder.clone(),
        }
    }

    pub fn save(&self, state: State) -> Result<()> {
        let path = self.path();
        let layer = || -> Result<GptInputLayer> { load(self.folder.with_file_name(format!("source-{state:?}"))) };
        let convert = |dtype, max_bytes| -> Result<()> {
            let source = Checkpoint::open(self.folder.with_file_name(format!("source-{state:?}")))?;
            source.convert(&path, dtype, max_bytes).map(|_| ())
        };
        match (self.case, state) {
            (Case::Tensors, _) => {
                let metadata = ("gpt_input_config".to_string(), state.config().to_json());
                save_tensors(&path, state.tensors().iter().map(|(name, tensor)| (name, tensor)), [metadata])
            }
            (Case::Layer, _) => layer()?.save(&path),
            (Case::Gguf, _) => layer()?.save_as(&path, SaveFormat::Gguf),
            (Case::Folder, _) => layer()?.save(&path),
            (Case::Convert, State::Old) => convert(None, None),
            (Case::Convert, State::New) => convert(Some(DType::BF16), Some(100_000)),
            (Case::Shards, State::Old) => convert(None, Some(400_000)),
            (Case::Shards, State::New) => convert(Some(DType::BF16), Some(256_000)),
            (Case::Optimizer, _) => adamw(state)?.save(&path),
            (Case::Training, _) => {
                layer()?.save(&path)?;
                adamw(state)?.save(path.join(OPTIMIZER))
            }
        }
    }

    /// Returns what the path opens as; panics if it is neither of the two or a mix.
    pub fn opens_as(&self) -> State {
        if matches!(self.case, Case::Optimizer) {
            return optimizer_at(&self.path());
        }
        if matches!(self.case, Case::Training) {
            optimizer_at(&self.path().join(OPTIMIZER)); // another save than the checkpoint's: whole, of either state
        }
        let checkpoint = Checkpoint::open(self.path()).unwrap();
        let tensors = checkpoint.tensors().unwrap();
        let read = checkpoint.var_builder(DType::F32, &Device::Cpu);
        let mut values = Vec::new();
        for tensor in &tensors {
            let table = read.get(tensor.shape.clone(), &tensor.name).unwrap().flatten_all().unwrap();
            let table = table.to_vec1::<f32>().unwrap();
            values.extend([table[0], table[table.len() - 1]]);
        }
        let state = if values[0] == 1. { State::Old } else { State::New };
        assert!(values.iter().all(|&value| f64::from(value) == state.value()), "a mix of tensors: {values:?}");
        let config = checkpoint.config().unwrap();
        let expected = match self.case {
            Case::Gguf => GptInputConfig::new(state.n_rows(), state.n_rows() / 10, 64).with_n_head(1).embd_pdrop,
            _ => state.config().embd_pdrop,
        };
        assert_eq!((config.embd_pdrop, config.vocab_size), (expected, state.n_rows()), "a mix with a configuration");
        state
    }

    /// Saves once more, and asserts that nothing else is left.
    pub fn is_clean_after(&self, state: State) {
        self.save(state).unwrap();
        assert_eq!(self.opens_as(), state);
        let mut expected: Vec<String> = FOREIGN.map(str::to_string).to_vec();
        let index = self.path().join("model.safetensors.index.json");
        match self.case {
            Case::Tensors | Case::Optimizer | Case::Layer => expected.push("x.safetensors".to_string()),
            Case::Gguf => expected.push("x.gguf".to_string()),
            _ if index.is_file() => {
                expected.extend(["config.json", "model.safetensors.index.json"].map(str::to_string));
                expected.extend(ShardIndex::open(&index).unwrap().shards().into_iter().map(str::to_string));
            }
            _ => expected.extend(["config.json", "model.safetensors"].map(str::to_string)),
        }
        if matches!(self.case, Case::Training) {
            assert_eq!(optimizer_at(&self.path().join(OPTIMIZER)), state);
            expected.push(OPTIMIZER.to_string());
        }
        expected.sort();
        assert_eq!(names(&self.folder), expected);
        for name in FOREIGN {
            assert_eq!(fs::read_to_string(self.folder.join(name)).unwrap(), name);
        }
    }
}

/// An optimizer of one table, which has made a step.
fn adamw(state: State) -> Result<AdamW> {
    let var = Var::from_tensor(&state.table(state.n_rows()))?;
    let mut adamw = AdamW::new_lr(vec![var.clone()], state.value())?;
    adamw.step(&(var.as_tensor() * state.value())?.sum_all()?.backward()?)?;
    Ok(adamw)
}

/// Returns whose state a file is; panics if it is neither's or a mix, or an optimizer cannot go on from it.
fn optimizer_at(path: &Path) -> State {
    let checkpoint = Checkpoint::open(path).unwrap();
    let tensors = checkpoint.tensors().unwrap();
    let read = checkpoint.var_builder(DType::F32, &Device::Cpu);
    // The first moment is a tenth of the gradient, the second a thousandth of its square.
    let n_rows = tensors[0].shape[0];
    let state = if n_rows == 1500 { State::Old } else { State::New };
    let [first, second] = [0, 1].map(|i| {
        let table = read.get(tensors[i].shape.clone(), &tensors[i].name).unwrap();
        table.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    });
    let gradient = state.value() as f32;
    assert!(first.iter().all(|x| (x - gradient / 10.).abs() < 1e-6) && n_rows == state.n_rows());
    assert!(second.iter().all(|x| (x - gradient * gradient / 1000.).abs() < 1e-6));
    let mut resumed = adamw(state).unwrap();
    resumed.load(path).unwrap();
    assert_eq!(resumed.learning_rate(), state.value());
    state
}
