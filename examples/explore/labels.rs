//! Labels beside points, none over another.

/// A rectangle: `left..right` by `top..bottom`, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

impl Frame {
    pub fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    pub fn contains(&self, other: &Self) -> bool {
        self.left <= other.left && other.right <= self.right && self.top <= other.top && other.bottom <= self.bottom
    }

    /// Returns the square around a dot.
    pub fn around((x, y): (i32, i32), radius: i32) -> Self {
        Self { left: x - radius, top: y - radius, right: x + radius + 1, bottom: y + radius + 1 }
    }
}

/// Returns where the label of each dot stands, `None` where it finds no room.
///
/// In the order of `dots`, a label of size `(width, height)` takes the first free place of eight around its dot: right,
/// left, above, below, and the corners.
pub fn place(dots: &[(i32, i32)], radius: i32, sizes: &[(i32, i32)], within: &Frame) -> Vec<Option<Frame>> {
    let mut taken: Vec<Frame> = dots.iter().map(|&dot| Frame::around(dot, radius)).collect();
    let mut place = |&(x, y): &(i32, i32), &(width, height): &(i32, i32)| {
        let (right, left, centre) = (x + radius + 4, x - radius - 4 - width, x - width / 2);
        let (above, below, level) = (y - radius - 1 - height, y + radius + 2, y - height / 2);
        let corners = [
            (right, level),
            (left, level),
            (centre, above),
            (centre, below),
            (right, above),
            (right, below),
            (left, above),
            (left, below),
        ];
        let frames = corners.map(|(left, top)| Frame { left, top, right: left + width, bottom: top + height });
        let free = |frame: &Frame| within.contains(frame) && !taken.iter().any(|taken| taken.overlaps(frame));
        let found = frames.into_iter().find(free);
        taken.extend(found);
        found
    };
    dots.iter().zip(sizes).map(|(dot, size)| place(dot, size)).collect()
}
