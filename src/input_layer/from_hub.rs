//! The layer of a repository on the Hugging Face Hub.

use candle_core::{DType, Device};

use super::GptInputLayer;
use crate::error::Result;
use crate::hub::Repo;

/// # Hub
impl GptInputLayer {
    /// Downloads what the layer needs of a repository on the Hugging Face Hub, and opens it as
    /// [`from_pretrained`](Self::from_pretrained) opens a folder. Needs the feature `hub`.
    ///
    /// This is `config.json`, and `model.safetensors` or those shards that hold the input tables; without these,
    /// PyTorch's files of the same parts. They lie in huggingface_hub's cache, and a second call fetches only a byte of
    /// each, to see that it is the same. [`Repo::from_env`] lists the environment variables that count, such as
    /// `HF_TOKEN`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE`.
    ///
    /// Without a server, what the cache has is used: [`Snapshot::undescribed`](crate::hub::Snapshot::undescribed) of
    /// [`Repo::download_input_tables`] says so.
    ///
    /// [`Repo::download_input_tables`] has an example with a revision and a mapped table. [`Repo::input_tables`] reads
    /// rows without a download.
    ///
    /// ```no_run
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::GptInputLayer;
    ///
    /// let layer = GptInputLayer::from_hub("openai-community/gpt2", DType::F32, &Device::Cpu)?;
    /// let hidden_states = layer.forward(&Tensor::new(&[[15496u32, 995]], &Device::Cpu)?)?; // [1, 2, 768]
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`HubError`](crate::error::HubError) if a file cannot be fetched, and the errors of
    /// [`from_pretrained`](Self::from_pretrained).
    pub fn from_hub(repo: &str, dtype: DType, device: &Device) -> Result<Self> {
        let snapshot = Repo::from_env(repo)?.download_input_tables()?;
        Self::from_pretrained(snapshot.folder, dtype, device)
    }
}
