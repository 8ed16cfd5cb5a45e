//! The parameters of the concept routes.

use serde::Deserialize;
use steerling::catalog::{Flag, Head};
use utoipa::{IntoParams, ToSchema};

use super::Sign;

/// What a listing or a search holds.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its schema is used: `Params` reads the values")]
pub(super) struct ListParams {
    /// Words to look for, one at least; without any, a listing.
    q: Option<String>,
    /// Entries of the answer.
    #[param(minimum = 1, maximum = 1000, default = 10)]
    limit: Option<usize>,
    /// Entries to skip.
    #[param(default = 0)]
    offset: Option<usize>,
    /// Of one head only, or of `any`. A search's default is `known`, a listing's `any`.
    #[param(inline)]
    head: Option<WhichHead>,
    /// Concepts that may be steered, others, or `any`. A search's default is `true`, a listing's `any`.
    #[param(inline)]
    steerable: Option<WhichSteerable>,
    /// Only concepts with this flag.
    #[param(inline)]
    flag: Option<WhichFlag>,
}

/// Which tokens, and how many.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its schema is used: `Params` reads the values")]
pub(super) struct TokensParams {
    /// Tokens of the answer.
    #[param(minimum = 1, maximum = 1000, default = 15)]
    k: Option<usize>,
    /// Those that it promotes (if not given), or works against.
    #[param(inline)]
    sign: Option<Sign>,
}

/// How many.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its schema is used: `Params` reads the values")]
pub(super) struct NeighborsParams {
    /// Concepts of the answer.
    #[param(minimum = 1, maximum = 1000, default = 20)]
    k: Option<usize>,
}

/// Of which head.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WhichHead {
    Known,
    Unknown,
    Any,
}

/// Whether concepts may be steered.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WhichSteerable {
    True,
    False,
    Any,
}

/// A flag of the catalogue.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WhichFlag {
    Steerable,
    Tone,
    Alignment,
    Demographic,
}

impl WhichHead {
    pub(super) fn filter(self) -> Option<Head> {
        match self {
            Self::Known => Some(Head::Known),
            Self::Unknown => Some(Head::Unknown),
            Self::Any => None,
        }
    }
}

impl WhichSteerable {
    pub(super) fn filter(self) -> Option<bool> {
        match self {
            Self::True => Some(true),
            Self::False => Some(false),
            Self::Any => None,
        }
    }
}

impl From<WhichFlag> for Flag {
    fn from(flag: WhichFlag) -> Self {
        match flag {
            WhichFlag::Steerable => Self::Steerable,
            WhichFlag::Tone => Self::Tone,
            WhichFlag::Alignment => Self::Alignment,
            WhichFlag::Demographic => Self::Demographic,
        }
    }
}
