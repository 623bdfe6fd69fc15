"""The smallest model of each family of `keras.applications`, by its module."""

from keras import applications

MODELS = {
    "vgg16": applications.VGG16,
    "resnet": applications.ResNet50,
    "resnet_v2": applications.ResNet50V2,
    "densenet": applications.DenseNet121,
    "xception": applications.Xception,
    "mobilenet": applications.MobileNet,
    "mobilenet_v2": applications.MobileNetV2,
    "mobilenet_v3": applications.MobileNetV3Small,
    "inception_v3": applications.InceptionV3,
    "inception_resnet_v2": applications.InceptionResNetV2,
    "nasnet": applications.NASNetMobile,
    "efficientnet": applications.EfficientNetB0,
    "efficientnet_v2": applications.EfficientNetV2B0,
    "convnext": applications.ConvNeXtTiny,
}
