"""The label names of `huggan/wikiart`, for files that do not carry them.

Source: the data set's card on the hub; the styles are those of ArtGAN's `Style/style_class.txt`, in its order.
The card's 129 artist names are not repeated here: without metadata an artist is known by number.
"""

STYLES = (
    "Abstract_Expressionism",
    "Action_painting",
    "Analytical_Cubism",
    "Art_Nouveau",
    "Baroque",
    "Color_Field_Painting",
    "Contemporary_Realism",
    "Cubism",
    "Early_Renaissance",
    "Expressionism",
    "Fauvism",
    "High_Renaissance",
    "Impressionism",
    "Mannerism_Late_Renaissance",
    "Minimalism",
    "Naive_Art_Primitivism",
    "New_Realism",
    "Northern_Renaissance",
    "Pointillism",
    "Pop_Art",
    "Post_Impressionism",
    "Realism",
    "Rococo",
    "Romanticism",
    "Symbolism",
    "Synthetic_Cubism",
    "Ukiyo_e",
)
GENRES = (
    "abstract_painting",
    "cityscape",
    "genre_painting",
    "illustration",
    "landscape",
    "nude_painting",
    "portrait",
    "religious_painting",
    "sketch_and_study",
    "still_life",
    "Unknown Genre",
)
SCENES = {
    "cityscape": "a view of a city",
    "genre_painting": "people in everyday life",
    "landscape": "a landscape",
    "nude_painting": "a nude",
    "portrait": "a portrait of a person",
    "religious_painting": "a religious scene",
    "still_life": "a still life",
}
"""What a genre says of what is shown. Abstract paintings, illustrations, sketches and studies are manners: a caption of
them would take style for scene."""
UNKNOWN_ARTIST = "Unknown Artist"
