//! Groups of parameters with settings of their own.

use candle_core::Var;
use candle_nn::VarMap;

/// Parameters with settings of their own; the optimizer's apply where the group sets none.
///
/// ```
/// use candle_core::{DType, Device, Var};
/// use candle_gpt_input::optim::{AdamW, ParamGroup};
/// use candle_nn::{Optimizer, ParamsAdamW, VarMap};
///
/// # let varmap = VarMap::new();
/// // As GPTs are trained: matrices decay, norms and biases do not.
/// let decayed = ParamGroup::from_varmap(&varmap, |_, var| var.rank() >= 2).with_weight_decay(0.1);
/// let others = ParamGroup::from_varmap(&varmap, |_, var| var.rank() < 2).with_weight_decay(0.0);
/// let mut adamw = AdamW::with_groups([decayed, others], ParamsAdamW { beta2: 0.95, ..Default::default() })?;
/// adamw.set_learning_rate(6e-4);
/// # Ok::<(), candle_gpt_input::Error>(())
/// ```
#[doc(alias = "param_groups")]
#[derive(Clone, Debug, Default)]
pub struct ParamGroup {
    pub(super) vars: Vec<(String, Var)>,
    pub(super) lr_scale: Option<f64>,
    pub(super) betas: Option<(f64, f64)>,
    pub(super) eps: Option<f64>,
    pub(super) weight_decay: Option<f64>,
}

impl ParamGroup {
    /// Makes a group of named variables. They are updated, and their gradients' norm is summed, in this order.
    pub fn new(vars: impl IntoIterator<Item = (impl Into<String>, Var)>) -> Self {
        Self { vars: vars.into_iter().map(|(name, var)| (name.into(), var)).collect(), ..Self::default() }
    }

    /// Takes the variables of `varmap` that `keep` accepts, ordered by name (a [`VarMap`] itself has another order each
    /// run).
    pub fn from_varmap(varmap: &VarMap, keep: impl Fn(&str, &Var) -> bool) -> Self {
        let vars = varmap.data().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut vars: Vec<(String, Var)> =
            vars.iter().filter(|(name, var)| keep(name, var)).map(|(name, var)| (name.clone(), var.clone())).collect();
        vars.sort_by(|(left, _), (right, _)| left.cmp(right));
        Self { vars, ..Self::default() }
    }

    /// Sets the factor of the optimizer's learning rate, by default 1.
    #[must_use]
    pub fn with_lr_scale(mut self, lr_scale: f64) -> Self {
        self.lr_scale = Some(lr_scale);
        self
    }

    /// Sets the decay of the running averages of the gradient (`beta1`) and of its square (`beta2`).
    #[must_use]
    pub fn with_betas(mut self, beta1: f64, beta2: f64) -> Self {
        self.betas = Some((beta1, beta2));
        self
    }

    /// Sets the constant that keeps the denominator from zero.
    #[must_use]
    pub fn with_eps(mut self, eps: f64) -> Self {
        self.eps = Some(eps);
        self
    }

    /// Sets the weight decay: each step shrinks the parameters by this times the learning rate.
    #[must_use]
    pub fn with_weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }
}

/// Takes all variables of a [`VarMap`], ordered by name.
impl From<&VarMap> for ParamGroup {
    fn from(varmap: &VarMap) -> Self {
        Self::from_varmap(varmap, |_, _| true)
    }
}

/// Takes variables without names, which are called by their index.
impl From<Vec<Var>> for ParamGroup {
    fn from(vars: Vec<Var>) -> Self {
        Self::new(vars.into_iter().enumerate().map(|(number, var)| (number.to_string(), var)))
    }
}
