//! The points of a path and their weights.

/// Where the points of a path lie, and what they weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathRule {
    /// `k/n` for `k = 1..n`, equal weights, as in the reference.
    #[default]
    Right,
    /// Gauss-Legendre: exact for polynomials of degree `2n - 1`.
    GaussLegendre,
}

impl PathRule {
    /// `(point, weight)` on `[0, 1]`.
    pub fn points(self, n: usize) -> Vec<(f64, f64)> {
        match self {
            Self::Right => (1..=n).map(|k| (k as f64 / n as f64, 1.0 / n as f64)).collect(),
            Self::GaussLegendre => gauss_legendre(n),
        }
    }
}

/// Nodes and weights on `[0, 1]`: roots of the Legendre polynomial by Newton's method.
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let legendre = |x: f64| {
        let (mut p0, mut p1) = (1.0, x);
        for k in 2..=n {
            (p0, p1) = (p1, ((2 * k - 1) as f64 * x * p1 - (k - 1) as f64 * p0) / k as f64);
        }
        let value = if n == 0 { p0 } else { p1 };
        (value, n as f64 * (x * p1 - p0) / (x * x - 1.0))
    };
    (1..=n)
        .map(|i| {
            let mut x = (std::f64::consts::PI * (i as f64 - 0.25) / (n as f64 + 0.5)).cos();
            for _ in 0..100 {
                let (value, slope) = legendre(x);
                let step = value / slope;
                x -= step;
                if step.abs() < 1e-15 {
                    break;
                }
            }
            let (_, slope) = legendre(x);
            (0.5 * (1.0 - x), 1.0 / ((1.0 - x * x) * slope * slope))
        })
        .collect()
}
