"""Words of the simulated market: verticals, their categories and products, and the phrases that ads are written with.

Every ad is a combination of a category, a product, a selling point and an audience. The same combination gives the ad
its latent vector (`gr4ad.market.ads`), so texts that share words describe ads that share vectors.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """A category: its `name`, the `purpose` phrase its descriptions use, and its `products` (six each)."""

    name: str
    purpose: str
    products: tuple[str, ...]


@dataclass(frozen=True)
class Vertical:
    """A vertical.

    Attributes:
        name: Name shown in the `category` column.
        categories: Six categories.
        selling_points: Eight pairs (adjective in the title, benefit sentence in the description).
        audiences: Four audiences.
        conversion_types: Conversion types with their shares (sum 1).
        price: Median product price, RMB fen; 0 for free products.
        click_value: Mean worth of one click relative to the other verticals (dimensionless).
    """

    name: str
    categories: tuple[Category, ...]
    selling_points: tuple[tuple[str, str], ...]
    audiences: tuple[str, ...]
    conversion_types: tuple[tuple[str, float], ...]
    price: int
    click_value: float


def _category(name: str, purpose: str, products: str) -> Category:
    return Category(name, purpose, tuple(products.split(", ")))


def _points(lines: str) -> tuple[tuple[str, str], ...]:
    pairs = (line.strip().split(": ", 1) for line in lines.strip().splitlines())
    return tuple((adjective, benefit) for adjective, benefit in pairs)


VERTICALS: tuple[Vertical, ...] = (
    Vertical(
        "Skincare",
        (
            _category(
                "Serums",
                "concentrated care that sinks into the skin overnight",
                "vitamin C serum, hyaluronic serum, retinol serum, niacinamide drops, peptide ampoule, collagen "
                "essence",
            ),
            _category(
                "Sunscreen",
                "daily protection from UV rays on face and body",
                "SPF50 sun lotion, sun stick, tinted sunscreen, sun mist, mineral sunblock, after-sun gel",
            ),
            _category(
                "Cleansers",
                "a clean face without tightness after washing",
                "amino acid cleanser, foaming face wash, cleansing oil, makeup remover, clay cleanser, micellar water",
            ),
            _category(
                "Makeup",
                "colour for lips, eyes and cheeks that lasts all day",
                "matte lipstick, cushion foundation, eyeshadow palette, liquid blush, mascara, brow pencil",
            ),
            _category(
                "Hair care",
                "stronger, shinier hair from root to tip",
                "anti-dandruff shampoo, hair mask, scalp serum, argan hair oil, leave-in conditioner, hair dye",
            ),
            _category(
                "Fragrance",
                "a scent that stays from morning to night",
                "floral perfume, woody cologne, body mist, solid perfume, scented hand cream, fragrance sampler set",
            ),
        ),
        _points("""
            Gentle: Free of alcohol and fragrance, tested on sensitive skin.
            Brightening: Evens dull tone in four weeks.
            Anti-aging: Softens fine lines and firms the face.
            Oil-control: Keeps shine and clogged pores away all day.
            Herbal: Made with ginseng, centella and other botanicals.
            Luxury: A spa ritual in a glass bottle.
            Student-price: Small sizes at a pocket-money price.
            Waterproof: Holds through sweat, rain and swimming.
        """),
        ("busy office women", "teenagers with acne", "men new to grooming", "mothers over forty"),
        (("purchase", 0.9), ("follow", 0.1)),
        12900,
        1.1,
    ),
    Vertical(
        "Mobile games",
        (
            _category(
                "Match-three",
                "relaxing puzzles for a short break",
                "candy match game, tile puzzle, bubble shooter, jewel quest, block blast, merge garden",
            ),
            _category(
                "Role-playing",
                "heroes, dungeons and long adventures",
                "open world RPG, turn-based legend, idle hero RPG, anime card RPG, martial arts MMO, dragon "
                "fantasy saga",
            ),
            _category(
                "Strategy",
                "build a city, raise an army and conquer the map",
                "kingdom war strategy, tower defense, three kingdoms chess, zombie survival base, naval fleet battle, "
                "space empire builder",
            ),
            _category(
                "Shooters",
                "fast gunfights with friends online",
                "battle royale shooter, sniper mission, tactical squad shooter, alien blaster, tank duel, robot arena",
            ),
            _category(
                "Simulation",
                "run a shop, a farm or a whole life of your own",
                "farm simulator, restaurant tycoon, dress-up studio, truck driver simulator, pet hotel, dream "
                "house designer",
            ),
            _category(
                "Board and cards",
                "classic table games with real opponents",
                "mahjong online, landlord poker, chess academy, trivia party, fishing arcade, dominoes club",
            ),
        ),
        _points("""
            Offline: Plays without a network connection.
            Free-to-play: No purchase needed, log in for daily gifts.
            Multiplayer: Team up with friends in real time.
            Idle: Your heroes level up while you sleep.
            Hardcore: Ranked seasons for skilled players.
            Cute: Soft colours and adorable characters.
            Story-driven: Hundreds of voiced chapters to unlock.
            High-graphics: Console quality at sixty frames a second.
        """),
        ("commuters", "competitive players", "casual players over fifty", "anime fans"),
        (("install", 1.0),),
        0,
        1.0,
    ),
    Vertical(
        "Short drama",
        (
            _category(
                "Romance",
                "love stories told in one-minute episodes",
                "CEO romance drama, contract marriage drama, campus first love series, second chance love drama, "
                "secret baby drama, ancient princess romance",
            ),
            _category(
                "Revenge",
                "a wronged hero returns and settles every score",
                "revenge heiress drama, divorced wife comeback, hidden identity drama, betrayed sister series, "
                "prison return drama, boardroom payback series",
            ),
            _category(
                "Fantasy",
                "rebirth, magic and time travel",
                "time travel drama, cultivation hero series, rebirth drama, dragon king drama, werewolf drama, "
                "magic doctor series",
            ),
            _category(
                "Family",
                "warm and bitter stories of parents and children",
                "mother-in-law drama, lost son drama, grandparents series, adoption drama, village family saga, "
                "father and daughter series",
            ),
            _category(
                "Thriller",
                "crime, secrets and a twist at the end of every episode",
                "detective drama, kidnapping series, midnight mystery drama, undercover agent series, "
                "courtroom suspense, island survival drama",
            ),
            _category(
                "Comedy",
                "quick laughs from everyday life",
                "office comedy, roommate comedy, sketch series, countryside comedy, dating comedy, delivery rider "
                "comedy",
            ),
        ),
        _points("""
            Complete: All eighty episodes are out, no waiting.
            Free-episodes: The first twenty episodes cost nothing.
            Fast-paced: A reversal every thirty seconds.
            Tear-jerking: Keep tissues ready for the finale.
            Sweet: Pure sugar with no misunderstandings.
            Star-cast: Played by faces you know from television.
            Original-novel: Adapted from a bestselling web novel.
            Exclusive: Streams only in our app.
        """),
        ("late-night viewers", "romance readers", "retired viewers", "young men"),
        (("follow", 0.5), ("install", 0.3), ("purchase", 0.2)),
        990,
        0.8,
    ),
    Vertical(
        "Travel",
        (
            _category(
                "Hotels",
                "rooms for a night or a season",
                "city hotel room, seaside resort, mountain lodge, boutique guesthouse, family suite, capsule hotel",
            ),
            _category(
                "Flights",
                "seats to hundreds of cities at low fares",
                "domestic flight deal, international flight ticket, student airfare, last-minute flight, "
                "multi-city flight pass, business class upgrade",
            ),
            _category(
                "Tours",
                "guided trips with transport and meals arranged",
                "grassland tour, Silk Road tour, island hopping tour, old town walking tour, safari tour, ski weekend",
            ),
            _category(
                "Car rental",
                "a car waiting at the airport or station",
                "SUV rental, electric car rental, camper van rental, airport pickup, chauffeur day hire, "
                "motorbike rental",
            ),
            _category(
                "Attractions",
                "tickets without queueing",
                "theme park ticket, aquarium ticket, museum pass, hot spring voucher, night cruise ticket, "
                "concert trip package",
            ),
            _category(
                "Outdoor gear",
                "equipment for trails, camps and rivers",
                "camping tent, hiking backpack, trekking shoes, down sleeping bag, rain jacket, carry-on suitcase",
            ),
        ),
        _points("""
            Refundable: Cancel free of charge until the day before.
            Budget: The lowest fare of the season.
            Premium: Five-star service from door to door.
            Family: Children under twelve go free.
            Romantic: Planned for couples and honeymoons.
            Adventure: Wild routes with trained guides.
            Weekend: Leave on Friday, be back by Monday.
            Pet-friendly: Bring your dog along.
        """),
        ("young couples", "families with children", "solo backpackers", "senior travellers"),
        (("purchase", 0.7), ("form", 0.3)),
        58000,
        1.6,
    ),
    Vertical(
        "Finance",
        (
            _category(
                "Credit cards",
                "a card with points, cash back and interest-free days",
                "cash back credit card, airline miles card, student credit card, fuel rebate card, gold card, co- "
                "branded shopping card",
            ),
            _category(
                "Loans",
                "money for plans that cannot wait",
                "personal loan, small business loan, mortgage refinancing, car loan, education loan, home "
                "renovation loan",
            ),
            _category(
                "Insurance",
                "cover for health, car and family",
                "medical insurance, term life insurance, car insurance, travel insurance, pension annuity, pet "
                "insurance",
            ),
            _category(
                "Wealth",
                "grow savings at your own level of risk",
                "index fund plan, gold savings, money market account, bond fund, fixed deposit, robo advisor "
                "portfolio",
            ),
            _category(
                "Stock trading",
                "charts, quotes and low commissions",
                "stock trading app, options course, margin account, futures simulator, dividend tracker, "
                "brokerage account",
            ),
            _category(
                "Tax and accounting",
                "numbers done right and on time",
                "tax return service, invoice software, payroll service, company registration, bookkeeping course, "
                "expense app",
            ),
        ),
        _points("""
            Instant: Approved online in five minutes.
            Low-rate: Interest from three percent a year.
            No-fee: No annual fee and no hidden charges.
            Secure: Licensed, encrypted and insured.
            Flexible: Repay or withdraw whenever you like.
            High-limit: Up to five hundred thousand yuan.
            Beginner: Explained in plain words with a free lesson.
            Cash-reward: A welcome bonus for new customers.
        """),
        ("first-time earners", "small business owners", "home owners", "retirees"),
        (("form", 0.8), ("install", 0.2)),
        0,
        2.6,
    ),
    Vertical(
        "Groceries",
        (
            _category(
                "Fresh fruit",
                "picked this morning and packed in ice",
                "cherry box, mango crate, blueberry punnet, mandarin bag, durian, kiwi gift box",
            ),
            _category(
                "Seafood and meat",
                "protein from the sea and the farm",
                "king prawns, salmon fillet, beef steak, lamb chops, hairy crab, chicken breast pack",
            ),
            _category(
                "Snacks",
                "something to nibble between meals",
                "mixed nuts, spicy duck neck, potato chips, dried mango, egg rolls, seaweed crisps",
            ),
            _category(
                "Drinks",
                "tea, coffee, juice and milk for every hour",
                "cold brew coffee, oolong tea, oat milk, sparkling juice, milk powder, craft beer",
            ),
            _category(
                "Staples",
                "rice, noodles and oil for the family kitchen",
                "jasmine rice, instant noodles, olive oil, soy sauce, frozen dumplings, hotpot base",
            ),
            _category(
                "Household",
                "cleaning and paper goods delivered to the door",
                "laundry pods, tissue bundle, dish soap, toilet cleaner, trash bags, bamboo towels",
            ),
        ),
        _points("""
            Organic: Grown without pesticides and certified.
            Bulk: Family packs that halve the unit price.
            Next-day: Ordered tonight, at the door tomorrow.
            Imported: Shipped straight from the country of origin.
            Low-sugar: Made for people who count calories.
            Spicy: Sichuan heat in every bite.
            Farm-direct: Bought from growers, without middlemen.
            Gift: Boxed and ribboned for the holidays.
        """),
        ("home cooks", "fitness fans", "students in dormitories", "parents of toddlers"),
        (("purchase", 1.0),),
        4900,
        0.6,
    ),
    Vertical(
        "Electronics",
        (
            _category(
                "Phones",
                "a faster phone with a better camera",
                "5G smartphone, folding phone, gaming phone, camera phone, senior phone, refurbished handset",
            ),
            _category(
                "Audio",
                "sound for walks, flights and living rooms",
                "wireless earbuds, noise-cancelling headphones, bluetooth speaker, soundbar, karaoke microphone, "
                "turntable",
            ),
            _category(
                "Computers",
                "machines for study, work and play",
                "thin laptop, gaming laptop, mini PC, drawing tablet, mechanical keyboard, curved monitor",
            ),
            _category(
                "Smart home",
                "appliances that listen and clean",
                "robot vacuum, smart lock, air purifier, smart bulb kit, security camera, voice assistant",
            ),
            _category(
                "Wearables",
                "health and messages on your wrist",
                "smartwatch, fitness band, sleep ring, kids GPS watch, smart glasses, heart rate strap",
            ),
            _category(
                "Kitchen appliances",
                "dinner at the press of a button",
                "air fryer, rice cooker, espresso machine, blender, electric kettle, steam oven",
            ),
        ),
        _points("""
            Flagship: The newest chip and the brightest screen.
            Long-battery: Two days on a single charge.
            Compact: Light enough for a coat pocket.
            Trade-in: Swap your old one for instant credit.
            Half-price: Fifty percent off during the festival.
            Gaming: Low latency and no dropped frames.
            Quiet: Whisper-level noise for small flats.
            Warranty-plus: Three years of door-to-door repair.
        """),
        ("gadget lovers", "college students", "work-from-home professionals", "grandparents"),
        (("purchase", 0.95), ("follow", 0.05)),
        89900,
        1.5,
    ),
    Vertical(
        "Education",
        (
            _category(
                "Languages",
                "speak a new language with confidence",
                "spoken English course, Japanese beginner class, IELTS training, business English tutor, "
                "Spanish app, French pronunciation lessons",
            ),
            _category(
                "Programming",
                "write code and find a better job",
                "Python course, web development bootcamp, data analysis course, machine learning class, "
                "kids coding camp, SQL workshop",
            ),
            _category(
                "Exams",
                "pass the test at the first attempt",
                "civil service exam course, graduate entrance prep, teacher certificate class, accountant exam prep, "
                "driving theory course, law exam training",
            ),
            _category(
                "School subjects",
                "better marks in every subject",
                "maths tutoring, physics tutor, reading club, chemistry lab class, essay writing course, olympiad "
                "training",
            ),
            _category(
                "Arts",
                "music, painting and dance for beginners",
                "piano lessons, watercolour class, guitar course, calligraphy class, street dance course, "
                "photography workshop",
            ),
            _category(
                "Careers",
                "skills that raise a salary",
                "video editing course, project management certificate, public speaking class, e-commerce course, "
                "nutritionist training, interior design diploma",
            ),
        ),
        _points("""
            Live: Small classes with a teacher who answers at once.
            Self-paced: Watch when you like, keep access for ever.
            One-to-one: A private tutor chosen for your level.
            Trial: The first lesson costs one yuan.
            Certified: Ends with a recognised certificate.
            Job-ready: Introductions to hiring companies included.
            Kids: Games and stories for ages six to twelve.
            Intensive: From zero to fluent in thirty days.
        """),
        ("university students", "parents of schoolchildren", "career changers", "hobby learners"),
        (("form", 0.7), ("purchase", 0.3)),
        19900,
        1.8,
    ),
)

TITLES = (
    "{brand} {point} {product}",
    "{point} {product} by {brand}",
    "{brand}: {point} {product} for {audience}",
    "{point} {product} for {audience} | {brand}",
    "New from {brand}: {point} {product}",
    "{brand} {category}: {point} {product}",
)
OPENINGS = (
    "{product_start}: {purpose}.",
    "Looking for {category_lower}? {brand} brings {purpose}.",
    "{brand} makes {category_lower} for {audience}: {purpose}.",
    "Our {product} means {purpose}.",
    "For {audience}: {purpose}.",
)
CALLS = {
    "purchase": ("Order today.", "Add it to your cart now.", "Buy now while stock lasts.", "Tap to shop."),
    "install": ("Install it now.", "Download free today.", "Tap to download.", "Get the app."),
    "form": (
        "Leave your number for a free consultation.",
        "Apply online now.",
        "Book a call today.",
        "Register here.",
    ),
    "follow": (
        "Follow us for more.",
        "Follow the channel to continue.",
        "Subscribe for daily updates.",
        "Join our followers.",
    ),
}
BRAND_STARTS = (
    "Lu",
    "Ve",
    "Ka",
    "Mi",
    "Ora",
    "Sen",
    "Tri",
    "Bel",
    "Nov",
    "Zha",
    "Qui",
    "Ham",
    "Fen",
    "Gro",
    "Ali",
    "Rui",
    "Yo",
    "Dra",
)
BRAND_MIDDLES = ("me", "ri", "lo", "ta", "vi", "no", "sha", "du", "pe", "ka", "zi", "mo")
BRAND_ENDS = ("va", "lis", "ra", "tek", "do", "nia", "ro", "mi", "xin", "lane", "bo", "stra")
