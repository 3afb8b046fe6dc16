//! The image calls of a fake runtime.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::runtime::Service;
use super::{Shared, lock};
use crate::v1::{self, image_service_server::ImageService};

type Answer<T> = Result<Response<T>, Status>;

fn named(image: &v1::Image, name: &str) -> bool {
    image.id == name || image.repo_tags.iter().any(|t| t == name) || image.repo_digests.iter().any(|d| d == name)
}

fn of(spec: Option<v1::ImageSpec>) -> String {
    spec.unwrap_or_default().image
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let images = |s: &Arc<Shared>| lock(&s.world).images.clone();
        self.does("list_images", "", |s| Ok(v1::ListImagesResponse { images: images(s) }))
            .await
    }

    async fn image_status(&self, request: Request<v1::ImageStatusRequest>) -> Answer<v1::ImageStatusResponse> {
        let name = of(request.into_inner().image);
        self.does("image_status", &name, |s| {
            let image = lock(&s.world).images.iter().find(|i| named(i, &name)).cloned();
            Ok(v1::ImageStatusResponse {
                image,
                info: Default::default(),
            })
        })
        .await
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let name = of(request.into_inner().image);
        self.does("pull_image", &name, |s| {
            let mut world = lock(&s.world);
            world.add_image(&name);
            let image = world.images.iter().find(|i| named(i, &name));
            Ok(v1::PullImageResponse {
                image_ref: image.map(|i| i.id.clone()).unwrap_or_default(),
            })
        })
        .await
    }

    async fn remove_image(&self, request: Request<v1::RemoveImageRequest>) -> Answer<v1::RemoveImageResponse> {
        let name = of(request.into_inner().image);
        self.does("remove_image", &name, |s| {
            lock(&s.world).images.retain(|i| !named(i, &name));
            Ok(v1::RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        self.does("image_fs_info", "", |s| {
            let used: u64 = lock(&s.world).images.iter().map(|i| i.size).sum();
            let usage = v1::FilesystemUsage {
                timestamp: s.now_ns(),
                fs_id: Some(v1::FilesystemIdentifier {
                    mountpoint: "/var/lib/containerd".to_owned(),
                }),
                used_bytes: Some(v1::UInt64Value { value: used }),
                inodes_used: Some(v1::UInt64Value { value: 1 }),
            };
            Ok(v1::ImageFsInfoResponse {
                image_filesystems: vec![usage],
                container_filesystems: Vec::new(),
            })
        })
        .await
    }
}
