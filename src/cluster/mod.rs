//! What the cluster knows of itself: the metadata records, the image they add up to, and the decisions that make new records. Pure.

pub mod configs;
pub mod controller;
pub mod group_config;
pub mod image;
pub mod journal;
pub mod kraft;
pub mod names;
pub mod placement;
pub mod queue;
pub mod record;
pub mod settings;
pub mod topic_config;
pub mod view;
