//! What a build says to URLs of backends that it was made without.

use seabed::Error;

#[tokio::test]
async fn a_url_of_a_missing_feature_is_told_the_feature() {
    let builds: [(&str, &str, bool); 4] = [
        ("postgres://u:secret@127.0.0.1:1/d", "`postgres`", cfg!(feature = "postgres")),
        ("mysql://u:secret@127.0.0.1:1/d", "`mysql`", cfg!(feature = "mysql")),
        ("mariadb://u:secret@127.0.0.1:1/d", "`mysql`", cfg!(feature = "mysql")),
        ("sqlite:///no/such/folder/file", "`sqlite`", cfg!(feature = "sqlite")),
    ];
    for (url, feature, enabled) in builds {
        let error = seabed::connect(url).await.err().expect("nothing is there");
        let told = error.to_string();
        assert!(!told.contains("secret"), "{told}");
        if enabled {
            assert!(error.is_retryable(), "{told}");
        } else {
            assert!(matches!(error, Error::Invalid { field: "url", .. }) && told.contains(feature), "{told}");
        }
    }
}
