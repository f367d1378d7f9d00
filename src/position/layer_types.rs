//! Models whose types of layers have positions of their own.

use super::Rotary;
use super::encoding::{Kind, PositionEncoding};
use crate::config::PositionScheme;
use crate::error::{PositionError, Result};

impl PositionEncoding {
    /// Returns the types of layers whose positions differ by type; none where all layers have the same.
    pub fn layer_types(&self) -> Vec<&str> {
        match &self.kind {
            Kind::RotaryByLayerType(by_type) => by_type.keys().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the positions of one type of layer, by its name in `layer_types` of a `config.json`, such as
    /// `sliding_attention`.
    ///
    /// Where all layers have the same positions, returns those. A type that is not rotated has the scheme
    /// [`PositionScheme::None`].
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_gpt_input::{GptInputConfig, GptInputLayer};
    ///
    /// let config = GptInputConfig::from_json(r#"{"vocab_size": 3, "n_embd": 4, "n_head": 1, "rope_parameters": {
    ///     "full_attention": {"rope_theta": 1000000.0}, "sliding_attention": {"rope_theta": 10000.0}}}"#)?;
    /// let wte = Tensor::zeros((3, 4), DType::F32, &Device::Cpu)?;
    /// let layer = GptInputLayer::with_scheme(wte, &config)?;
    /// let q = Tensor::ones((1, 1, 1, 4), DType::F32, &Device::Cpu)?;
    ///
    /// assert!(layer.positions().rotate(&q, &q, 7).is_err()); // as which of the two?
    /// let (q, k) = layer.positions().of_layer_type("sliding_attention")?.rotate(&q, &q, 7)?;
    /// # assert_eq!(q.dims(), k.dims());
    /// # Ok::<(), candle_gpt_input::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`PositionError::NoSuchLayerType`] if the types differ and this is none of them.
    #[doc(alias("layer_types", "sliding_attention", "full_attention"))]
    pub fn of_layer_type(&self, layer_type: &str) -> Result<Self> {
        let (Kind::RotaryByLayerType(by_type), PositionScheme::RotaryByLayerType(configs)) =
            (&self.kind, self.scheme())
        else {
            return Ok(self.clone());
        };
        let (Some(rotary), Some(config)) = (by_type.get(layer_type), configs.get(layer_type)) else {
            let (layer_type, known) = (layer_type.to_string(), self.layer_types().join(", "));
            return Err(PositionError::NoSuchLayerType { layer_type, known }.into());
        };
        let scheme = config.clone().map_or(PositionScheme::None, PositionScheme::Rotary);
        let kind = rotary.clone().map_or(Kind::Input(None), Kind::Rotary);
        Ok(self.with_kind(scheme, kind))
    }

    /// Returns the rotation that all layers share.
    ///
    /// # Errors
    /// [`PositionError::LayerTypes`] if they have several, [`PositionError::WrongPlace`] if they have none.
    pub(super) fn rotary(&self) -> Result<&Rotary> {
        match (&self.kind, self.scheme()) {
            (Kind::Rotary(rotary), _) => Ok(rotary),
            (Kind::RotaryByLayerType(by_type), PositionScheme::RotaryByLayerType(configs)) => {
                let mut values = configs.values();
                let first = values.next();
                let all_equal = values.all(|config| Some(config) == first);
                match by_type.values().next() {
                    Some(Some(rotary)) if all_equal => Ok(rotary),
                    _ => Err(PositionError::LayerTypes { types: self.layer_types().join(", ") }.into()),
                }
            }
            _ => Err(self.wrong_place("do not rotate")),
        }
    }
}
